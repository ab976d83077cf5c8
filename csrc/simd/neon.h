/* What NEON has and vector extensions cannot say; who uses it asks whether it is defined. */
#include <arm_neon.h>

#define MULTIPLY_WORDS(a, b) vmull_u32(vmovn_u64((uint64x2_t)(a)), vdup_n_u32(b))

#define ROOT_F32(a) vsqrtq_f32((float32x4_t)(a))
#define ROOT_F64(a) vsqrtq_f64((float64x2_t)(a))
#define FUSED_F32(a, b, c) vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b))
#define FUSED_F64(a, b, c) vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b))

/* Sums of products of int8: two products of at most 128*127 fit into 16 bits. */
#define HAS_DOT_INT8
#define INT8_RATE 1
static ALWAYS_INLINE int32x4_t add_products_int8(int32x4_t sum, int8x16_t a, int8x16_t r) {
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(r)), high = vmull_high_s8(a, r);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}
#define dot_int8(sum, a, words)                                                                                        \
    ((ivec)add_products_int8((int32x4_t)(sum), vreinterpretq_s8_s32(vdupq_n_s32(a)), (int8x16_t)(words)))
