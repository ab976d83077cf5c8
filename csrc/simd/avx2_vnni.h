/* Sums of products of int8 (AVX-VNNI): the arguments are unsigned. */
#define OWN_INT8
#undef FIRST_INT8
#undef INT8_RATE
#undef dot_int8
#define INT8_SHIFT 128
#define INT8_RATE 4
#define dot_int8(sum, a, words) ((ivec)_mm256_dpbusd_avx_epi32((__m256i)(sum), _mm256_set1_epi32(a), (__m256i)(words)))
