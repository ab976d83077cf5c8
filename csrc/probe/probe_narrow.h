/* Dot products of words of fewer bits, as the table narrow_probes. Included by probe.c only.
 *
 * Products of int8 are exact. Where no instruction has them, values are widened to 16 bits, whose products and sums of
 * two are exact.
 */

/* ---- int8: four values in a word, or two that are widened ---- */
#define SUM int32_t
#define TOGETHER 4
#define ONES 0x01010101
#if FRNN_X86
#define FN(name) name##_avx512_vnni
#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f,avx512vnni")))
#define DOT(sum, a) _mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)a)
#include "probe_narrow_body.h"

#if FRNN_NARROW_SETS
#define FN(name) name##_avx2_vnni
#define VECTOR_BYTES 32
#define TARGET __attribute__((target("avx2,avxvnni")))
#define DOT(sum, a) _mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)a)
#include "probe_narrow_body.h"
#endif

#undef TOGETHER
#undef ONES
#define TOGETHER 2
#define ONES 0x00010001
#define FN(name) name##_avx512
#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f,avx512bw")))
#define DOT(sum, a) _mm512_add_epi32((__m512i)sum, _mm512_madd_epi16((__m512i)a, (__m512i)a))
#include "probe_narrow_body.h"

#define FN(name) name##_avx2
#define VECTOR_BYTES 32
#define TARGET __attribute__((target("avx2")))
#define DOT(sum, a) _mm256_add_epi32((__m256i)sum, _mm256_madd_epi16((__m256i)a, (__m256i)a))
#include "probe_narrow_body.h"

#define FN(name) name##_sse2
#define VECTOR_BYTES 16
#define TARGET
#define DOT(sum, a) _mm_add_epi32((__m128i)sum, _mm_madd_epi16((__m128i)a, (__m128i)a))
#include "probe_narrow_body.h"
#elif FRNN_NEON && FRNN_NARROW_SETS
#define FN(name) name##_neon_dot
#define VECTOR_BYTES 16
#if defined(__clang__)
#define TARGET __attribute__((target("dotprod")))
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define DOT(sum, a) vdotq_s32((int32x4_t)sum, (int8x16_t)a, (int8x16_t)a)
#include "probe_narrow_body.h"
#endif
#undef SUM
#undef TOGETHER
#undef ONES

/* ---- bfloat16: two values in a word ---- */
#define SUM float
#define TOGETHER 2
#define ONES 0x3f803f80
#if FRNN_X86
#define FN(name) name##_avx512_bf16
#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f,avx512bf16")))
#define DOT(sum, a) _mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)a)
#include "probe_narrow_body.h"
#elif FRNN_NEON && FRNN_NARROW_SETS
#define FN(name) name##_neon_bf16
#define VECTOR_BYTES 16
#if defined(__clang__)
#define TARGET __attribute__((target("bf16")))
#else
#define TARGET __attribute__((target("arch=armv8.2-a+bf16")))
#endif
#define DOT(sum, a) vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)a, (bfloat16x8_t)a)
#include "probe_narrow_body.h"
#endif
#undef SUM
#undef TOGETHER
#undef ONES

/* The first that the selected set has counts. Tiles (AMX) multiply more than vectors do, which is not measured. */
static const narrow_probe narrow_probes[] = {
#if FRNN_X86
    {"avx512_amx", 1, 64, dot_avx512_vnni},
    {"avx512_amx", 2, 32, dot_avx512_bf16},
    {"avx512_bf16", 1, 64, dot_avx512_vnni},
    {"avx512_bf16", 2, 32, dot_avx512_bf16},
    {"avx512_vnni", 1, 64, dot_avx512_vnni},
    {"avx512", 1, 32, dot_avx512},
#if FRNN_NARROW_SETS
    {"avx2_vnni", 1, 32, dot_avx2_vnni},
#endif
    {"avx2", 1, 16, dot_avx2},
    {"sse2", 1, 8, dot_sse2},
#elif FRNN_NEON && FRNN_NARROW_SETS
    {"neon_bf16", 1, 16, dot_neon_dot},
    {"neon_bf16", 2, 8, dot_neon_bf16},
    {"neon_dot", 1, 16, dot_neon_dot},
#endif
    {NULL, 0, 0, NULL},
};
