/* What NEON has and vector extensions cannot say; who uses it asks whether it is defined. */
#include <arm_neon.h>

#define MULTIPLY_WORDS(a, b) vmull_u32(vmovn_u64((uint64x2_t)(a)), vdup_n_u32(b))

#define ROOT_F32(a) vsqrtq_f32((float32x4_t)(a))
#define ROOT_F64(a) vsqrtq_f64((float64x2_t)(a))
#define FUSED_F32(a, b, c) vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b))
#define FUSED_F64(a, b, c) vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b))
