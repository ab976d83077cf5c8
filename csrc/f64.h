/* The words of drivers for one dtype, before a body: sequence/sequence_f64.c and training/training_f64.c. */
#define REAL double
#define FN(name) name##_f64
#define KERNELS frnn_kernels_f64
#define CELL_KERNELS frnn_cell_kernels_f64
#define PACKING frnn_packing_f64
#define KERNELS_OF f64
#define GEMM frnn_gemm_f64
#define STORED_AS_IS FRNN_STORED_F64
