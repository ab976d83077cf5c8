/* What AVX-512 has and vector extensions cannot say; who uses it asks whether it is defined. */
#include <immintrin.h>

#define HAS_MASKS
static ALWAYS_INLINE __m512 load_some_f32(const float *p, int64_t lanes) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << lanes) - 1), p);
}
static ALWAYS_INLINE __m512d load_some_f64(const double *p, int64_t lanes) {
    return _mm512_maskz_loadu_pd((__mmask8)((1u << lanes) - 1), p);
}
static ALWAYS_INLINE void store_some_f32(float *p, __m512 v, int64_t lanes) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << lanes) - 1), v);
}
static ALWAYS_INLINE void store_some_f64(double *p, __m512d v, int64_t lanes) {
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << lanes) - 1), v);
}

#define ESTIMATE_F32(b) _mm512_rcp14_ps(b)
#define ESTIMATE_F64(b) _mm512_rcp14_pd(b)

#define MULTIPLY_WORDS(a, b) _mm512_mul_epu32((__m512i)(a), _mm512_set1_epi64(b))
#define ROOT_F32(a) _mm512_sqrt_ps(a)
#define ROOT_F64(a) _mm512_sqrt_pd(a)
#define FUSED_F32(a, b, c) _mm512_fmadd_ps(a, b, c)
#define FUSED_F64(a, b, c) _mm512_fmadd_pd(a, b, c)

/* Sums of products of int8, as in avx2.h but for the sign, which a mask gives to a: two products are at most 2*128*127,
 * and nothing saturates. */
#define HAS_DOT_INT8
#define INT8_RATE 1.7
static ALWAYS_INLINE __m512i add_products_int8(__m512i sum, __m512i a, __m512i r) {
    const __m512i with_sign = _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(r), _mm512_setzero_si512(), a);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(r), with_sign);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#define dot_int8(sum, a, words) ((ivec)add_products_int8((__m512i)(sum), _mm512_set1_epi32(a), (__m512i)(words)))
