/* Sums of products of int8. */
#define OWN_INT8
#undef INT8_RATE
#undef dot_int8
#define INT8_RATE 4
#define dot_int8(sum, a, words)                                                                                        \
    ((ivec)vdotq_s32((int32x4_t)(sum), vreinterpretq_s8_s32(vdupq_n_s32(a)), (int8x16_t)(words)))
