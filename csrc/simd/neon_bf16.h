/* Sums of products of bfloat16. */
#define OWN_BF16
#define HAS_DOT_BF16
#define BF16_RATE 2
#define dot_bf16(sum, a, words)                                                                                        \
    ((vec)vbfdotq_f32((float32x4_t)(sum), vreinterpretq_bf16_u32(vdupq_n_u32(a)), (bfloat16x8_t)(words)))
