/* Dropout: y = scale * x where a random word says that the value stays, else 0.
 *
 * The words are those of Philox4x32-10 (J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers:
 * as easy as 1, 2, 3", SC 2011): a function of a key and of a counter, which gives a block of four words of 32 bits.
 * The counter is the number of the block, so each word can be computed by itself, in any order, and again.
 *
 * Value 64*g + 16*w + j of an array has word w of block 16*g + j. So neighbours have the same word of neighbouring
 * blocks, and blocks that are computed side by side, each in a lane of its own, need no shuffling. A word is computed
 * in a lane of 64 bits, which holds a product of two words; beside a word the upper half of its lane may be anything.
 */
#define GROUP_BLOCKS (FRNN_DROPOUT_GROUP / 4) /* a multiple of VL */

#if VECTOR_BYTES
#define WIDE ((int64_t)(VECTOR_BYTES / sizeof(uint64_t)))
typedef uint64_t FN(wide) __attribute__((vector_size(VECTOR_BYTES)));
#else
typedef uint64_t FN(wide);
#endif
#define wide FN(wide)

/* The words in the lanes of a, times a word. */
static ALWAYS_INLINE wide FN(multiply_words)(wide a, uint32_t b) {
#ifdef MULTIPLY_WORDS
    return (wide)MULTIPLY_WORDS(a, b);
#else
    return (a & 0xFFFFFFFFu) * (uint64_t)b;
#endif
}

/* Which blocks: the upper three words of their counters, of which the lowest counts on. */
typedef struct {
    uint64_t key, upper[3];
} FN(stream);

/* The words of the blocks `first`, `first` + step, `first` + 2*step and so on. */
static ALWAYS_INLINE void FN(philox)(const FN(stream) *s, uint64_t first, uint64_t step, wide x[4]) {
    wide block = {0};
#if VECTOR_BYTES
    UNROLL_FOR(int64_t k = 0; k < WIDE; k++) block[k] = (uint64_t)k * step;
#else
    (void)step;
#endif
    block += first;
    x[0] = block;
    UNROLL_FOR(int w = 0; w < 3; w++) x[w + 1] = (wide){0} + s->upper[w];
    x[1] += block >> 32;
    uint32_t k0 = (uint32_t)s->key, k1 = (uint32_t)(s->key >> 32);
    UNROLL_FOR(int round = 0; round < 10; round++) {
        const wide a = FN(multiply_words)(x[0], 0xD2511F53u), b = FN(multiply_words)(x[2], 0xCD9E8D57u);
        x[0] = b >> 32 ^ x[1] ^ (uint64_t)k0, x[1] = b;
        x[2] = a >> 32 ^ x[3] ^ (uint64_t)k1, x[3] = a;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}

/* For each of the four words, which of the values from `first` on, a vector of blocks, stay: all bits of a lane, or
 * none. Those whose word is at least `threshold` do. */
static ALWAYS_INLINE void FN(draw)(const FN(stream) *s, uint64_t first, uint32_t threshold, ivec stays[4]) {
    wide x[4];
#if VECTOR_BYTES && REAL_BITS == 32
    wide odd[4]; /* every other block: two words fill a lane of 64 bits */
    FN(philox)(s, first, 2, x);
    FN(philox)(s, first + 1, 2, odd);
    UNROLL_FOR(int w = 0; w < 4; w++) stays[w] = (ivec)((uvec)((x[w] & 0xFFFFFFFFu) | odd[w] << 32) >= threshold);
#elif VECTOR_BYTES
    FN(philox)(s, first, 1, x);
    UNROLL_FOR(int w = 0; w < 4; w++) stays[w] = (ivec)((ivec)(x[w] & 0xFFFFFFFFu) >= (int64_t)threshold);
#else
    FN(philox)(s, first, 1, x);
    UNROLL_FOR(int w = 0; w < 4; w++) stays[w] = -(ivec)((uint32_t)x[w] >= threshold);
#endif
}

/* The first n values of a group. */
static ALWAYS_INLINE void FN(drop)(const FN(frnn_dropout) *run, int64_t begin, int64_t n) {
    const FN(stream) stream = {.key = run->key};
    const vec scale = splat(run->scale);
    const REAL *x = run->x + begin;
    REAL *y = run->y + begin;
    for (int64_t j = 0; j < GROUP_BLOCKS; j += VL) {
        ivec stays[4];
        FN(draw)(&stream, (uint64_t)(begin / 4 + j), run->threshold, stays);
        UNROLL_FOR(int64_t w = 0; w < 4; w++) {
            const int64_t k = w * GROUP_BLOCKS + j;
            if (k < n) store(y + k, from_bits(bits(load(x + k, n - k) * scale) & stays[w]), n - k);
        }
    }
}

static void FN(dropout)(const FN(frnn_dropout) *run, int64_t begin, int64_t end) {
    int64_t k = begin;
    for (; k + FRNN_DROPOUT_GROUP <= end; k += FRNN_DROPOUT_GROUP) FN(drop)(run, k, FRNN_DROPOUT_GROUP);
    if (k < end) FN(drop)(run, k, end - k);
}

/* A mask of the units u0..u1-1, u0 a multiple of FRNN_UNITS: what stays has the value `scale`, the rest is zero. Unit
 * 64*g + 16*w + j has word w of block 16*g + j, whose counter's other words are `what`, the row and the step. */
static void FN(draw_mask)(const frnn_mask_of *of, double scale, int64_t u0, int64_t u1, REAL *mask) {
    const FN(stream) stream = {of->key, {of->what, of->row, of->step}};
    const ivec value = bits(splat((REAL)scale));
    for (int64_t begin = u0 / FRNN_DROPOUT_GROUP * FRNN_DROPOUT_GROUP; begin < u1; begin += FRNN_DROPOUT_GROUP)
        for (int64_t j = 0; j < GROUP_BLOCKS; j += VL) {
            ivec stays[4];
            FN(draw)(&stream, (uint64_t)(begin / 4 + j), of->threshold, stays);
            UNROLL_FOR(int64_t w = 0; w < 4; w++) {
                const int64_t k = begin + w * GROUP_BLOCKS + j;
                if (u0 <= k && k < u1) store(mask + k - u0, from_bits(stays[w] & value), u1 - k);
            }
        }
}

#undef GROUP_BLOCKS
#undef WIDE
#undef wide
