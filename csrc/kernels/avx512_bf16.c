/* AVX-512 with sums of products of int8 (VNNI) and of bfloat16. */
#include "../compiler.h"
#if FRNN_X86
#if defined(__clang__)
#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,avx512vnni,avx512bf16"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,avx512vnni,avx512bf16")
#endif
#include "../simd/avx512.h"
#include "../simd/avx512_vnni.h"
#include "../simd/avx512_bf16.h"
#define ISA avx512_bf16
#define VECTOR_BYTES 64
#define VECTOR_REGISTERS 32
#include "narrow_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
