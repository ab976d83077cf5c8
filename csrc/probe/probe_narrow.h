/* Dot products of words of fewer bits, as the table narrow_probes. Included by probe.c only.
 *
 * Products of int8 are exact. Where no instruction has them, values are widened to 16 bits, whose products and sums of
 * two are exact.
 */

#if FRNN_X86
#define SUM int32_t
#define ONES 0x01010101
#define TOGETHER 4
#define FN(name) name##_avx512_vnni
#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f,avx512vnni")))
#define DOT(sum, a) _mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)a)
#include "probe_narrow_body.h"

#undef ONES
#undef TOGETHER
#define ONES 0x00010001
#define TOGETHER 2
#define FN(name) name##_avx512_words
#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f,avx512bw")))
#define DOT(sum, a) _mm512_add_epi32((__m512i)sum, _mm512_madd_epi16((__m512i)a, (__m512i)a))
#include "probe_narrow_body.h"

#define FN(name) name##_avx2_words
#define VECTOR_BYTES 32
#define TARGET __attribute__((target("avx2")))
#define DOT(sum, a) _mm256_add_epi32((__m256i)sum, _mm256_madd_epi16((__m256i)a, (__m256i)a))
#include "probe_narrow_body.h"

#define FN(name) name##_sse2_words
#define VECTOR_BYTES 16
#define TARGET
#define DOT(sum, a) _mm_add_epi32((__m128i)sum, _mm_madd_epi16((__m128i)a, (__m128i)a))
#include "probe_narrow_body.h"
#undef SUM
#undef ONES

#define SUM float
#define ONES 0x3f803f80
#define FN(name) name##_avx512_bf16
#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f,avx512bf16")))
#define DOT(sum, a) _mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)a)
#include "probe_narrow_body.h"
#undef SUM
#undef ONES
#undef TOGETHER

#endif

static const narrow_probe narrow_probes[] = {
#if FRNN_X86
    {"avx512_bf16", 2, 32, dot_avx512_bf16},
    {"avx512_bf16", 1, 64, dot_avx512_vnni},
    {"avx512_vnni", 1, 64, dot_avx512_vnni},
    {"avx512", 1, 32, dot_avx512_words},
    {"avx2", 1, 16, dot_avx2_words},
    {"sse2", 1, 8, dot_sse2_words},
#endif
    {NULL, 0, 0, NULL},
};
