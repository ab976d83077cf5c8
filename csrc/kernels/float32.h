/* The words of bodies for float. */
#define REAL float
#define INTEGER int32_t
#define UNSIGNED uint32_t
#define REAL_BITS 32
#define MANTISSA_BITS 23
#define FN(name) JOIN(name, f32)
