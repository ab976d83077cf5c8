/* What one thread can do at best with one instruction for values of fewer bits. Included by probe_narrow.h only, which
 * defines FN, VECTOR_BYTES, TARGET and DOT, which end here, and
 *
 *     SUM        type of sums
 *     ONES       a word of 32 bits, whose TOGETHER values are 1
 *     DOT(sum, a)    sum + the products of each lane's word of `a` with itself
 */
#define vec FN(vec)
#define words FN(words)
typedef SUM vec __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef int32_t words __attribute__((vector_size(VECTOR_BYTES), may_alias));

static const vec FN(zero);
static const words FN(nothing);

/* `repeats` times SUMS products of a vector, all in registers. */
TARGET static double FN(dot)(int64_t repeats) {
    words a = FN(nothing) + ONES;
    vec all = FN(zero);
    SUM first;
#define BEGIN(k) vec sum##k = FN(zero);
#define STEP(k)                                                                                                        \
    ROUNDED(a); /* the compiler does not know what is in it: each product is computed */                               \
    sum##k = (vec)DOT(sum##k, a);
#define END(k) all += sum##k;
    EACH_SUM(BEGIN)
    for (int64_t n = 0; n < repeats; n++) {
        EACH_SUM(STEP)
    }
    EACH_SUM(END)
#undef BEGIN
#undef STEP
#undef END
    memcpy(&first, &all, sizeof first);
    return (double)first / TOGETHER / (double)repeats;
}

#undef vec
#undef words
#undef FN
#undef VECTOR_BYTES
#undef TARGET
#undef DOT
