/* The words of drivers for one dtype, before a body: sequence/sequence_f32.c and training/training_f32.c. */
#define REAL float
#define FN(name) name##_f32
#define KERNELS frnn_kernels_f32
#define CELL_KERNELS frnn_cell_kernels_f32
#define PACKING frnn_packing_f32
#define KERNELS_OF f32
#define GEMM frnn_gemm_f32
#define STORED_AS_IS FRNN_STORED_F32
