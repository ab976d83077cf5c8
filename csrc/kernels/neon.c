#include "../compiler.h"
#if FRNN_NEON /* part of every aarch64 */
#include "../simd/neon.h"
#define ISA neon
#define VECTOR_BYTES 16
#define VECTOR_REGISTERS 32
#include "kernels_isa.h"
#endif
