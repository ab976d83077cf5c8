/* What SSE2 has and vector extensions cannot say; who uses it asks whether it is defined. */
#include <emmintrin.h>

#define MULTIPLY_WORDS(a, b) _mm_mul_epu32((__m128i)(a), _mm_set1_epi64x(b))

#define ROOT_F32(a) _mm_sqrt_ps(a)
#define ROOT_F64(a) _mm_sqrt_pd(a)

/* Sums of products of int8, widened to 16 bits: those of even and of odd places apart. */
#define HAS_DOT_INT8
#define INT8_RATE 2
#define EVEN(v) _mm_srai_epi16(_mm_slli_epi16(v, 8), 8)
#define ODD(v) _mm_srai_epi16(v, 8)
static ALWAYS_INLINE __m128i add_products_int8(__m128i sum, __m128i a, __m128i r) {
    sum = _mm_add_epi32(sum, _mm_madd_epi16(EVEN(r), EVEN(a)));
    return _mm_add_epi32(sum, _mm_madd_epi16(ODD(r), ODD(a)));
}
#define dot_int8(sum, a, words) ((ivec)add_products_int8((__m128i)(sum), _mm_set1_epi32(a), (__m128i)(words)))
