#define REAL float
#define FN(name) name##_f32
#define KERNELS frnn_kernels_f32
#define CELL_KERNELS frnn_cell_kernels_f32
#define PACKING frnn_packing_f32
#define KERNELS_OF f32
#define GEMM frnn_gemm_f32
#include "sequence_body.h"
