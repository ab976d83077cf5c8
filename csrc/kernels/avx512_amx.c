/* AVX-512 with products of tiles (AMX), of int8 and of bfloat16. */
#include "../compiler.h"
#if FRNN_X86 && FRNN_NARROW_SETS
#if defined(__clang__)
#pragma clang attribute push(                                                                                          \
    __attribute__((                                                                                                    \
        target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,avx512vnni,avx512bf16,amx-tile,amx-int8,amx-bf16"))),      \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,avx512vnni,avx512bf16,amx-tile,amx-int8,amx-bf16")
#endif
#include "../simd/avx512.h"
#include "../simd/avx512_vnni.h"
#include "../simd/avx512_bf16.h"
#include "../simd/avx512_amx.h"
#define ISA avx512_amx
#define VECTOR_BYTES 64
#define VECTOR_REGISTERS 32
#include "narrow_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
