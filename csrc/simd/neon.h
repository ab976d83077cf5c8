/* What NEON has and vector extensions cannot say; who uses it asks whether it is defined. */
#include <arm_neon.h>

#define MULTIPLY_WORDS(a, b) vmull_u32(vmovn_u64((uint64x2_t)(a)), vdup_n_u32(b))
