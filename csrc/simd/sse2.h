/* What SSE2 has and vector extensions cannot say; vector.h uses it where ROOT_* are defined. */
#include <emmintrin.h>

#define ROOT_F32(a) _mm_sqrt_ps(a)
#define ROOT_F64(a) _mm_sqrt_pd(a)
