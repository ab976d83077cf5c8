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
