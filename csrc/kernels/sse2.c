#include "../compiler.h"
#if FRNN_X86 /* part of every x86-64 */
#include "../simd/sse2.h"
#define ISA sse2
#define VECTOR_BYTES 16
#define VECTOR_REGISTERS 16
#include "kernels_isa.h"
#endif
