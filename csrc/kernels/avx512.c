#include "../compiler.h"
#if FRNN_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))),                   \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#include "../simd/avx512.h"
#define ISA avx512
#define VECTOR_BYTES 64
#define VECTOR_REGISTERS 32
#include "kernels_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
