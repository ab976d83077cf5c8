/* Vector tanh, sigmoid and log(sigmoid), each one quotient, and exponentials. Included after vector.h.
 *
 * All rest on e^a - 1 for a = n*ln 2 + r, |r| <= ln(2)/2:   e^a - 1 = 2^n*p + (2^n - 1) with p = e^r - 1,
 * where p = r + r^2*q(r) keeps its relative precision near zero. n comes from adding 1.5*2^mantissa, whose rounding
 * leaves n in the low bits; n*ln 2 is subtracted in two parts, the first of which is exact.
 *
 *   tanh x    = E/(E + 2), E = e^{2|x|} - 1, with the sign of x.
 *   sigmoid x = 1/(1 + e^{-x})
 *   log(sigmoid x) = min(x, 0) - log(1 + e),  e = e^{-|x|},  log(1 + e) = 2 artanh(e/(2 + e))
 *
 * Errors, measured over every float and over 10^7 doubles (tests/engines/test_activations.py repeats a sample):
 *   tanh     float 1.5 ULP, double 2.6 ULP
 *   sigmoid  float 2.0 ULP, double 2.0 ULP where the result is normal; below that the absolute error is under the
 *            least normal number, since the argument is clamped where e^{-x} would overflow.
 *   log(sigmoid)  float 2.6 ULP, double 2.8 ULP where the result is normal (of every 61st float, and 8*10^6 doubles).
 * NaN stays NaN; tanh of +-0 and of infinities is exact.
 */
static ALWAYS_INLINE vec FN(expm1_parts)(vec a, vec *scale) {
#if REAL_BITS == 32
    const REAL magic = 12582912.0f, log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
#else
    const REAL magic = 6755399441055744.0, log2_e = 1.4426950408889634, ln2_high = 6.93147180369123816490e-01,
               ln2_low = 1.90821492927058770002e-10;
#endif
    const vec shifted = a * log2_e + magic;
    const vec n = shifted - magic;
    const vec r = (a - n * ln2_high) - n * ln2_low;
    *scale = from_bits((ivec)(((uvec)bits(shifted) << MANTISSA_BITS) + (uvec)bits(splat(1)))); /* 2^n */
#if REAL_BITS == 32 /* minimax fit; relative error of p below 2^-31 */
    vec q = splat(1.984589350e-04f);
    q = q * r + 1.394082343e-03f;
    q = q * r + 8.333389799e-03f;
    q = q * r + 4.166635860e-02f;
    q = q * r + 1.666666637e-01f;
    q = q * r + 5.000000045e-01f;
#else
    /* Taylor to r^14/14!: the first term left out is below 2^-56 of p */
    vec q = splat(1.0 / 87178291200.0);
    q = q * r + 1.0 / 6227020800.0;
    q = q * r + 1.0 / 479001600.0;
    q = q * r + 1.0 / 39916800.0;
    q = q * r + 1.0 / 3628800.0;
    q = q * r + 1.0 / 362880.0;
    q = q * r + 1.0 / 40320.0;
    q = q * r + 1.0 / 5040.0;
    q = q * r + 1.0 / 720.0;
    q = q * r + 1.0 / 120.0;
    q = q * r + 1.0 / 24.0;
    q = q * r + 1.0 / 6.0;
    q = q * r + 0.5;
#endif
    return r + (r * r) * q;
}

static ALWAYS_INLINE vec FN(vtanh)(vec x) {
    const REAL bound = REAL_BITS == 32 ? (REAL)9.1 : (REAL)19.1; /* where tanh rounds to 1 */
    const ivec sign = bits(x) & bits(splat((REAL)-0.0));
    const vec magnitude = from_bits(bits(x) ^ sign);
    const vec a = where_less(splat(bound), magnitude, splat(bound), magnitude);
    vec scale;
    const vec p = FN(expm1_parts)(a + a, &scale);
    const vec E = scale * p + (scale - 1);
    vec y = quotient(E, E + 2);
#if REAL_BITS == 32 /* near zero both E and E + 2 round badly; x + x^3*P(x^2), error below 2^-33, does not */
    const vec s = magnitude * magnitude;
    vec odd = splat(2.003383163e-02f);
    odd = odd * s - 5.383204557e-02f;
    odd = odd * s + 1.333293099e-01f;
    odd = odd * s - 3.333332962e-01f;
    odd = odd * (s * magnitude) + magnitude;
    y = where_less(magnitude, splat(0.3f), odd, y);
#endif
    return from_bits(bits(y) | sign);
}

static ALWAYS_INLINE vec FN(vsigmoid)(vec x) {
    const REAL low = REAL_BITS == 32 ? (REAL)-88.3 : (REAL)-709.0, high = REAL_BITS == 32 ? (REAL)87.0 : (REAL)708.0;
    vec a = where_less(x, splat(low), splat(low), x);
    a = where_less(splat(high), a, splat(high), a);
    vec scale;
    const vec p = FN(expm1_parts)(-a, &scale);
    /* 1 + e^{-x}, the smaller of 1 and 2^n first, so that only the last sum rounds by much */
    const vec one = splat(1);
    return quotient(one, (scale * p + where_less(scale, one, scale, one)) + where_less(scale, one, one, scale));
}

/* e^a for a <= 0; at least e^-87 (double e^-708), which counts for nothing beside 1. NaN stays NaN. */
static ALWAYS_INLINE vec FN(vexp)(vec a) {
    const REAL low = REAL_BITS == 32 ? (REAL)-87.0 : (REAL)-708.0;
    vec scale;
    const vec p = FN(expm1_parts)(where_less(a, splat(low), splat(low), a), &scale);
    return scale * p + scale;
}

static ALWAYS_INLINE vec FN(vabs)(vec x) { return from_bits(bits(x) & ~bits(splat((REAL)-0.0))); }

/* log(sigmoid x), and its slope sigmoid(-x), which costs a quotient more where it is used. */
static ALWAYS_INLINE vec FN(vlog_sigmoid)(vec x, vec *slope) {
    const vec e = FN(vexp)(-FN(vabs)(x)), s = quotient(e, e + 2), t = s * s;
#if REAL_BITS == 32 /* minimax fits of (artanh(s)/s - 1)/s^2; relative error of artanh below 2^-31, double 2^-67 */
    vec p = splat(1.16121646e-1f);
    p = p * t + 1.08532879e-1f;
    p = p * t + 1.42961790e-1f;
    p = p * t + 1.99998532e-1f;
    p = p * t + 3.33333337e-1f;
#else
    vec p = splat(0.076156313097144924193);
    p = p * t + 0.03167055425885122698;
    p = p * t + 0.049710124482773673141;
    p = p * t + 0.052401996171826370258;
    p = p * t + 0.058839988836205180801;
    p = p * t + 0.066665884745690892251;
    p = p * t + 0.076923101269020811996;
    p = p * t + 0.090909090430028277259;
    p = p * t + 0.11111111111665993422;
    p = p * t + 0.14285714285710971648;
    p = p * t + 0.20000000000000007739;
    p = p * t + 1.0 / 3.0;
#endif
    const vec zero = splat(0), one = splat(1);
    *slope = quotient(where_less(x, zero, one, e), one + e);
    return where_less(x, zero, x, zero) - 2 * (s + (s * t) * p);
}

#define vexp FN(vexp)
#define vabs FN(vabs)
#define vlog_sigmoid FN(vlog_sigmoid)
#define vtanh FN(vtanh)
#define vsigmoid FN(vsigmoid)
