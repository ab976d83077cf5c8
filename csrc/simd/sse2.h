/* What SSE2 has and vector extensions cannot say; who uses it asks whether it is defined. */
#include <emmintrin.h>

#define MULTIPLY_WORDS(a, b) _mm_mul_epu32((__m128i)(a), _mm_set1_epi64x(b))

#define ROOT_F32(a) _mm_sqrt_ps(a)
#define ROOT_F64(a) _mm_sqrt_pd(a)
