/* The set avx2_vnni with its instruction in plain C, for machines that do not have it:
 * `frnn_narrow_emulated_avx2_vnni`.
 */
#include "../../csrc/compiler.h"
#if FRNN_X86 && FRNN_NARROW_SETS
#include <immintrin.h>

__attribute__((noinline, target("avx2"))) static __m256i emulated_dpbusd(__m256i sum, __m256i a, __m256i r) {
    uint8_t left[32];
    int8_t right[32];
    int32_t sums[8];
    memcpy(left, &a, 32), memcpy(right, &r, 32), memcpy(sums, &sum, 32);
    for (int k = 0; k < 32; k++) sums[k / 4] = (int32_t)((uint32_t)sums[k / 4] + (uint32_t)(left[k] * right[k]));
    memcpy(&sum, sums, 32);
    return sum;
}
#define _mm256_dpbusd_avx_epi32 emulated_dpbusd

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#include "../../csrc/simd/avx2.h"
#include "../../csrc/simd/avx2_vnni.h"
#define ISA emulated_avx2_vnni
#define VECTOR_BYTES 32
#define VECTOR_REGISTERS 16
#include "../../csrc/kernels/narrow_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
