/* Sums of products of int8: the arguments are unsigned. */
#define HAS_DOT_INT8
#define INT8_SHIFT 128
#define INT8_RATE 4
#define dot_int8(sum, a, words) ((ivec)_mm512_dpbusd_epi32((__m512i)(sum), _mm512_set1_epi32(a), (__m512i)(words)))
