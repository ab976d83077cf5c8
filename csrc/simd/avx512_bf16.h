/* Sums of products of bfloat16. */
#define HAS_DOT_BF16
#define BF16_RATE 2
#define dot_bf16(sum, a, words)                                                                                        \
    ((vec)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)_mm512_set1_epi32((int)(a)), (__m512bh)(words)))
