/* What one thread can do at best, for one dtype and instruction set. Included by probe_isa.h only, which defines REAL
 * and FN; VECTOR_BYTES (0: no vectors) and TARGET come from probe.c. Both functions return something of what they
 * computed, so that no compiler leaves it out.
 */
#define vec FN(vec)
#if VECTOR_BYTES
typedef REAL vec __attribute__((vector_size(VECTOR_BYTES), may_alias));
#else
typedef REAL vec;
#endif

static const vec FN(zero);

/* `repeats` times SUMS multiply-adds of a vector, all in registers. The factors keep the sums near 1. */
TARGET static double FN(multiply_add)(int64_t repeats) {
    const vec half = FN(zero) + (REAL)0.5;
    vec all = FN(zero);
    REAL first;
#define BEGIN(k) vec sum##k = half + (REAL)k;
#define STEP(k) sum##k = sum##k * half + half;
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
    return (double)first;
}

/* Read `bytes`, a multiple of READ_BYTES, `repeats` times. */
TARGET static double FN(read)(const void *data, int64_t bytes, int64_t repeats) {
    vec all = FN(zero);
    REAL first;
#define BEGIN(k) vec sum##k = all;
#define STEP(k) sum##k += p[k];
#define END(k) all += sum##k;
    EACH_READ(BEGIN)
    for (int64_t n = 0; n < repeats; n++) {
        const vec *p = data, *end = p + bytes / (int64_t)sizeof(vec);
        for (; p < end; p += READS) {
            EACH_READ(STEP)
        }
    }
    EACH_READ(END)
#undef BEGIN
#undef STEP
#undef END
    memcpy(&first, &all, sizeof first);
    return (double)first;
}

#undef vec
