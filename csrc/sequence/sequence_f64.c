#define REAL double
#define FN(name) name##_f64
#define KERNELS frnn_kernels_f64
#define CELL_KERNELS frnn_cell_kernels_f64
#define PACKING frnn_packing_f64
#define KERNELS_OF f64
#define GEMM frnn_gemm_f64
#include "sequence_body.h"
