#include "../compiler.h"
#if FRNN_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#include "../simd/avx2.h"
#define ISA avx2
#define VECTOR_BYTES 32
#define VECTOR_REGISTERS 16
#include "kernels_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
