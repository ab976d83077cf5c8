/* What AVX2 has and vector extensions cannot say; who uses it asks whether it is defined. */
#include <immintrin.h>

#define HAS_MASKS
static const int32_t lane_masks_f32[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
static const int64_t lane_masks_f64[8] = {-1, -1, -1, -1};
#define MASK(D, lanes, LANES) _mm256_loadu_si256((const __m256i *)(lane_masks_##D + LANES - (lanes)))
static ALWAYS_INLINE __m256 load_some_f32(const float *p, int64_t lanes) {
    return _mm256_maskload_ps(p, MASK(f32, lanes, 8));
}
static ALWAYS_INLINE __m256d load_some_f64(const double *p, int64_t lanes) {
    return _mm256_maskload_pd(p, MASK(f64, lanes, 4));
}
static ALWAYS_INLINE void store_some_f32(float *p, __m256 v, int64_t lanes) {
    _mm256_maskstore_ps(p, MASK(f32, lanes, 8), v);
}
static ALWAYS_INLINE void store_some_f64(double *p, __m256d v, int64_t lanes) {
    _mm256_maskstore_pd(p, MASK(f64, lanes, 4), v);
}
#undef MASK

#define MULTIPLY_WORDS(a, b) _mm256_mul_epu32((__m256i)(a), _mm256_set1_epi64x(b))
#define ROOT_F32(a) _mm256_sqrt_ps(a)
#define ROOT_F64(a) _mm256_sqrt_pd(a)
#define FUSED_F32(a, b, c) _mm256_fmadd_ps(a, b, c)
#define FUSED_F64(a, b, c) _mm256_fmadd_pd(a, b, c)

/* Sums of products of int8. The instruction multiplies unsigned values by signed ones and adds two neighbours in 16
 * bits, where it saturates. The unsigned ones are |r|, the signed ones a, or where r is negative ~a = -a - 1; a
 * column's sum begins with the ones that lacks. Nothing saturates: where r >= 0 a product is between -127*127 and
 * 127*127, else between -128*128 and 126*128, so two are between -2^15 and 32258. */
#define HAS_DOT_INT8
#define FIRST_INT8(r) ((r) < 0 ? -(r) : 0)
#define INT8_RATE 1.8
static ALWAYS_INLINE __m256i add_products_int8(__m256i sum, __m256i a, __m256i r) {
    const __m256i negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), r);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(r), _mm256_xor_si256(a, negative));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#define dot_int8(sum, a, words) ((ivec)add_products_int8((__m256i)(sum), _mm256_set1_epi32(a), (__m256i)(words)))
