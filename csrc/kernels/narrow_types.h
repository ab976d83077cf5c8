/* The narrow types of weights, for one instruction set: int8 and bfloat16. Included where `vec` is a vector of float.
 * An instruction set says in simd/<its name>.h what it has for them; without that, plain vectors do.
 *
 * docs/math.md says what a product is. With int8 every instruction set gives the same bits: sums of integers are exact,
 * and what follows is rounded one operation at a time, never contracted (ROUNDED).
 */
#define product frnn_product_f32

#if VECTOR_BYTES
#define LANE(v, n) ((v)[n])
#define to_real(v) __builtin_convertvector(v, vec)
typedef unsigned char bytes_of_vector __attribute__((vector_size(VECTOR_BYTES / 4), aligned(1), may_alias));
#define store_bytes(p, v) (*(bytes_of_vector *)(p) = __builtin_convertvector(v, bytes_of_vector))
static ALWAYS_INLINE ivec larger(ivec a, ivec b) {
    const ivec greater = a > b;
    return (a & greater) | (b & ~greater);
}
#else
#define LANE(v, n) (v)
#define to_real(v) ((float)(v))
#define store_bytes(p, v) (*(p) = (unsigned char)(v))
static ALWAYS_INLINE ivec larger(ivec a, ivec b) { return FRNN_MAX(a, b); }
#endif

/* ---- int8 ----
 *
 * C = float(sum) * (scale of A's row * scale of R's column).
 *
 * No sum overflows: |a| <= 127, |r| <= 128 and K <= 2^17 give less than 2^31. Where the instruction set wants unsigned
 * arguments they are a + INT8_SHIFT. A column's sum starts with what `dot_int8` then lacks, FIRST_INT8(r) for each of
 * its weights; integers wrap around on the way, and come out right.
 */
#ifndef FILL_INT8
#define FILL_INT8 4
#define FILL_BF16 2
#endif
#ifndef INT8_SHIFT
#define INT8_SHIFT 0
#endif
#ifndef FIRST_INT8
#define FIRST_INT8(r) (-INT8_SHIFT * (r))
#endif

static ALWAYS_INLINE ivec start_int8(const char *head) { return bits(load((const float *)head + VL, VL)); }

#ifndef HAS_DOT_INT8
static ALWAYS_INLINE ivec dot_int8(ivec sum, int32_t argument, ivec words) {
    UNROLL_FOR(int k = 0; k < 4; k++) {
        const int8_t a = (int8_t)((uint32_t)argument >> (8 * k));
        sum += a * ((ivec)((uvec)words << (24 - 8 * k)) >> 24);
    }
    return sum;
}
#endif

static ALWAYS_INLINE vec finish_int8(ivec sum, const char *head, const char *row) {
    const vec scale = splat(*(const float *)row) * load((const float *)head, VL);
    vec value = to_real(sum) * scale;
    ROUNDED(value);
    return value;
}

static void pack_int8(int64_t K, int64_t columns, const void *weights, const float *scales, void *packed);

#define NARROW(name) name##_int8
#define TOGETHER 4
#define FILL FILL_INT8
#define HEAD 8
#define argument int32_t
#define total ivec
#define start(head) start_int8(head)
#define dot(sum, a, words) dot_int8(sum, a, words)
#define finish(sum, head, row) finish_int8(sum, head, row)
#include "narrow_body.h"

static void pack_int8(int64_t K, int64_t columns, const void *weights, const float *scales, void *packed) {
    const int8_t *w = weights;
    float *scale = packed;
    uint32_t *first = (uint32_t *)(scale + VL); /* which may wrap around, as the sums that begin with it */
    for (int64_t n = 0; n < VL; n++) {
        scale[n] = n < columns ? scales[n] : 0, first[n] = 0;
        for (int64_t k = 0; n < columns && k < K; k++) first[n] += (uint32_t)(FIRST_INT8(w[n * K + k]));
    }
    pack_words_int8(K, columns, weights, (char *)(first + VL));
}

/* Adding this rounds a float between -2^22 and 2^22 to an integer, ties to even, whose low byte is the sum's. */
#define ROUNDING 0x1.8p23f
#define LEAST 0x1p-100f /* below, the largest value's reciprocal may be infinite */

/* A row as integers from -127 to 127 and their scale. */
static void convert_int8(int64_t K, const float *x, void *to) {
    const int64_t whole = K / VL * VL, filled = (K + 63) / 64 * 64;
    ivec most = (ivec)splat(0); /* the bits of floats that are not negative are ordered as these are, NaN above all */
    for (int64_t k = 0; k < K; k += VL) most = larger(bits(load(x + k, FRNN_MIN(VL, K - k))) & 0x7fffffff, most);
    int32_t largest = 0;
    for (int lane = 0; lane < VL_MOST; lane++) largest = FRNN_MAX(largest, LANE(most, lane));
    float top;
    memcpy(&top, &largest, sizeof top);
    const int finite = largest < 0x7f800000;
    const float inverse = finite && top >= LEAST ? 127 / top : 0;
    *(float *)to = finite ? (top >= LEAST ? top / 127 : 0) : NAN;
    unsigned char *values = (unsigned char *)to + FRNN_ROW_HEAD;
    memset(values + K, INT8_SHIFT, (size_t)(filled - K));
    if (inverse == 0) {
        memset(values, INT8_SHIFT, (size_t)K);
        return;
    }
    for (int64_t k = 0; k < K; k += VL) {
        vec scaled = load(x + k, FRNN_MIN(VL, K - k)) * inverse;
        ROUNDED(scaled);
        const ivec rounded = bits(scaled + ROUNDING) + INT8_SHIFT;
        if (k < whole)
            store_bytes(values + k, rounded);
        else
            for (int64_t n = 0; n < K - k; n++) values[k + n] = (unsigned char)LANE(rounded, n);
    }
}
#undef ROUNDING
#undef LEAST

/* ---- bfloat16: the upper half of a float; sums are float ----------------------------------------------------------
 */

#ifdef HAS_DOT_BF16
typedef uint32_t pair_bf16; /* two values of A, rounded to bfloat16 */
#else
typedef struct {
    float low, high;
} pair_bf16;

static ALWAYS_INLINE vec dot_bf16(vec sum, pair_bf16 a, ivec words) {
    sum += a.low * from_bits((ivec)((uvec)words << 16));
    return sum + a.high * from_bits(words & (int32_t)0xffff0000);
}
#endif

#define NARROW(name) name##_bf16
#define TOGETHER 2
#define FILL FILL_BF16
#define HEAD 4 /* room, so that vectors do not lie a power of two apart */
#define argument pair_bf16
#define total vec
#define start(head) ((void)(head), splat(0))
#define dot(sum, a, words) dot_bf16(sum, a, words)
#define finish(sum, head, row) ((void)(row), sum)
#include "narrow_body.h"

static void pack_bf16(int64_t K, int64_t columns, const void *weights, const float *scales, void *packed) {
    (void)scales;
    memset(packed, 0, (size_t)VL * 4);
    pack_words_bf16(K, columns, weights, (char *)packed + VL * 4);
}

static void convert_bf16(int64_t K, const float *x, void *to) {
    char *values = (char *)to + FRNN_ROW_HEAD;
#ifdef HAS_DOT_BF16
    uint16_t *half = (uint16_t *)values;
    for (int64_t k = 0; k < K; k++) {
        uint32_t word;
        memcpy(&word, x + k, sizeof word);
        const uint32_t nan = (word & 0x7fffffff) > 0x7f800000;
        half[k] = (uint16_t)(nan ? word >> 16 | 0x40 : (word + 0x7fff + (word >> 16 & 1)) >> 16);
    }
    memset(half + K, 0, (size_t)((K + 63) / 64 * 64 - K) * sizeof *half);
#else
    memcpy(values, x, (size_t)K * sizeof *x);
    if (K % 2) memset(values + K * (int64_t)sizeof *x, 0, sizeof *x);
#endif
}

#ifdef HAS_TILES
#include "tiles_body.h"
#else
#define MULTIPLY_INT8 multiply_int8
#define MULTIPLY_BF16 multiply_bf16
#endif

#undef product
#undef LANE
#undef to_real
#undef store_bytes

#define FRNN_PACKING_BF16                                                                                              \
    {.bytes = 2,                                                                                                       \
     .head = 4,                                                                                                        \
     .together = FILL_BF16,                                                                                            \
     .argument = (int)sizeof(pair_bf16) / 2,                                                                           \
     .rate = BF16_RATE,                                                                                                \
     .pack_narrow = pack_bf16,                                                                                         \
     .convert = convert_bf16,                                                                                          \
     .multiply = MULTIPLY_BF16}
#define FRNN_PACKING_INT8                                                                                              \
    {.bytes = 1,                                                                                                       \
     .head = 8,                                                                                                        \
     .together = FILL_INT8,                                                                                            \
     .argument = 1,                                                                                                    \
     .rate = INT8_RATE,                                                                                                \
     .pack_narrow = pack_int8,                                                                                         \
     .convert = convert_int8,                                                                                          \
     .multiply = MULTIPLY_INT8}
#ifndef BF16_RATE
#define BF16_RATE 1
#endif
#ifndef INT8_RATE
#define INT8_RATE 1
#endif
