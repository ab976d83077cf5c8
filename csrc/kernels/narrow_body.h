/* Products with weights of fewer bits than a float, their packing, and what becomes of the left-hand factor. Included
 * by narrow_types.h once for each narrow type, for one instruction set. It defines, and this file undefines,
 *
 *     NARROW(name)               adds the type's suffix
 *     TOGETHER                   weights of a column that lie together: a word of 32 bits
 *     FILL                       K is filled up with zeros to a multiple of this
 *     HEAD                       bytes a lane that lie before the words: what `finish` and `start` read
 *     argument                   type of what a word of weights is multiplied by, TOGETHER values of a row of A
 *     total                      vector type of sums
 *     start(head)                the sums at the beginning
 *     dot(sum, argument, words)  sum + the products of each lane's word
 *     finish(sum, head, row)     the result in float; `row` is what `convert` has put before the row's arguments
 *
 * Packed, a matrix R (K, columns) is a row of vectors. A vector holds VL neighbouring columns: their heads, and then
 * for each TOGETHER rows of R, one after the other, a word of each column.
 *
 * `convert` makes a row of A what kernels read: FRNN_ROW_HEAD bytes, of which the first float is the row's scale, and
 * then an argument for each word, up to a multiple of 64 bytes.
 */

/* A tile is the part of C that is held in registers while k runs. */
#if VECTOR_REGISTERS >= 32
#define MOST_ROWS 8
#define MOST_VECTORS 4
#define TILE_VECTORS(rows) ((rows) <= 6 || (rows) > 8 ? 4 : 3)
#define TILE_ROWS(rows) ((rows) <= 8 ? 8 : 6)
#else
#define MOST_ROWS 4
#define MOST_VECTORS 2
#define TILE_VECTORS(rows) 2
#define TILE_ROWS(rows) 4
#endif
/* A row alone: several sums hide the latency of one. */
#define ROW_VECTORS 8
#define WORD_BYTES (VL * 4)
/* If R has this many bytes or more, it may not fit into L2, and is prefetched. */
#define FAR_BYTES (1 << 20)

/* One tile. Where this is inlined, `rows` and `vectors` are constants. A's rows begin with their arguments; R with the
 * head of its first vector. `soon` is a vector that a later tile reads, or null. */
static ALWAYS_INLINE void NARROW(tile)(const int rows, const int vectors, const product *p, const char *A,
                                       const char *R, const char *soon, float *C, int64_t ldc) {
    const int64_t words = (p->K + TOGETHER - 1) / TOGETHER, a_row = p->a_row, stride = p->stride;
    total sum[MOST_ROWS][ROW_VECTORS];
    UNROLL_FOR(int m = 0; m < rows; m++)
        UNROLL_FOR(int v = 0; v < vectors; v++) sum[m][v] = start(R + v * stride);
    const char *R_words = R + HEAD * VL;
    for (int64_t k = 0; k < words; k++, R_words += WORD_BYTES) {
        ivec r[ROW_VECTORS];
        if (soon) PREFETCH_NEAR(soon + k * WORD_BYTES);
        UNROLL_FOR(int v = 0; v < vectors; v++) r[v] = bits(load((const float *)(R_words + v * stride), VL));
        UNROLL_FOR(int m = 0; m < rows; m++) {
            argument a;
            memcpy(&a, A + m * a_row + k * (int64_t)sizeof a, sizeof a);
            UNROLL_FOR(int v = 0; v < vectors; v++) sum[m][v] = dot(sum[m][v], a, r[v]);
        }
    }
    UNROLL_FOR(int m = 0; m < rows; m++) {
        const char *row = A + m * a_row - FRNN_ROW_HEAD;
        UNROLL_FOR(int v = 0; v < vectors; v++) {
            float *c = C + m * ldc + v * VL;
            const vec result = finish(sum[m][v], R + v * stride, row);
            store(c, p->beta ? load(c, VL) + result : result, VL);
        }
    }
}

#define TILE(rows, vectors)                                                                                            \
    static void NARROW(tile_##rows##_##vectors)(const product *p, const char *A, const char *R, const char *soon,      \
                                                float *C, int64_t ldc) {                                               \
        NARROW(tile)(rows, vectors, p, A, R, soon, C, ldc);                                                            \
    }
#define TILES(vectors) TILE(1, vectors) TILE(2, vectors) TILE(3, vectors) TILE(4, vectors)
#define ENTRIES(vectors)                                                                                               \
    NARROW(tile_1_##vectors), NARROW(tile_2_##vectors), NARROW(tile_3_##vectors), NARROW(tile_4_##vectors)

typedef void (*NARROW(tile_function))(const product *, const char *, const char *, const char *, float *, int64_t);
TILE(1, 8)
TILES(1)
TILES(2)
#if MOST_ROWS == 8
#define TALL_TILES(vectors) TILE(5, vectors) TILE(6, vectors)
#define TALL_ENTRIES(vectors) NARROW(tile_5_##vectors), NARROW(tile_6_##vectors)
#define TALLEST_TILES(vectors) TILE(7, vectors) TILE(8, vectors)
#define TALLEST_ENTRIES(vectors) NARROW(tile_7_##vectors), NARROW(tile_8_##vectors)
TALL_TILES(1)
TALL_TILES(2)
TILES(3)
TALL_TILES(3)
TILES(4)
TALL_TILES(4)
TALLEST_TILES(1)
TALLEST_TILES(2)
TALLEST_TILES(3)
static const NARROW(tile_function) NARROW(tiles)[MOST_VECTORS][MOST_ROWS] = {
    {ENTRIES(1), TALL_ENTRIES(1), TALLEST_ENTRIES(1)},
    {ENTRIES(2), TALL_ENTRIES(2), TALLEST_ENTRIES(2)},
    {ENTRIES(3), TALL_ENTRIES(3), TALLEST_ENTRIES(3)},
    {ENTRIES(4), TALL_ENTRIES(4)},
};
#undef TALL_TILES
#undef TALL_ENTRIES
#undef TALLEST_TILES
#undef TALLEST_ENTRIES
#else
static const NARROW(tile_function) NARROW(tiles)[MOST_VECTORS][MOST_ROWS] = {{ENTRIES(1)}, {ENTRIES(2)}};
#endif

/* All rows of C, for `width` columns from n on, which are at most TILE_VECTORS vectors. */
static void NARROW(multiply_columns)(const product *p, int64_t n, int64_t width) {
    const int64_t most = TILE_ROWS(p->rows), tiles = (p->rows + most - 1) / most, vectors = (width + VL - 1) / VL;
    const int far = p->columns / VL * p->stride >= FAR_BYTES;
    const char *R = (const char *)p->R + n / VL * p->stride;
    for (int64_t i = 0; i < tiles; i++) {
        const int64_t m = p->rows * i / tiles, rows = p->rows * (i + 1) / tiles - m;
        const NARROW(tile_function) tile = NARROW(tiles)[vectors - 1][rows - 1];
        const char *A = (const char *)p->A + m * p->a_row + FRNN_ROW_HEAD;
        const char *soon = far && i < vectors ? R + (vectors + i) * p->stride : NULL;
        float *C = p->C + m * p->ldc + n;
        if (width == vectors * VL) {
            tile(p, A, R, soon, C, p->ldc);
        } else { /* the last vector is wider than what is left of C: compute beside C */
            float whole[MOST_ROWS][MOST_VECTORS * VL_MOST];
            for (int64_t r = 0; p->beta && r < rows; r++)
                memcpy(whole[r], C + r * p->ldc, (size_t)width * sizeof(float));
            tile(p, A, R, soon, whole[0], MOST_VECTORS * VL_MOST);
            for (int64_t r = 0; r < rows; r++) memcpy(C + r * p->ldc, whole[r], (size_t)width * sizeof(float));
        }
    }
}

/* C = beta*C + A R; A as `convert` leaves its rows, `a_row` and `stride` in bytes. */
static void NARROW(multiply)(const product *p) {
    const int64_t width = TILE_VECTORS(p->rows) * VL, step = p->rows == 1 ? ROW_VECTORS * VL : width;
    const int64_t steps = (p->columns + step - 1) / step;
    for (int64_t i = 0; i < steps; i++) {
        const int64_t n = (p->descending ? steps - 1 - i : i) * step, end = FRNN_MIN(n + step, p->columns);
        if (p->rows == 1 && end - n == step)
            NARROW(tile_1_8)(p, (const char *)p->A + FRNN_ROW_HEAD, (const char *)p->R + n / VL * p->stride, NULL,
                             p->C + n, p->ldc);
        else
            for (int64_t m = n; m < end; m += width) NARROW(multiply_columns)(p, m, FRNN_MIN(width, end - m));
    }
}

/* The words of at most VL columns, out of the weights' rows, of K values each. */
static void NARROW(pack_words)(int64_t K, int64_t columns, const char *weights, char *words) {
    const int64_t bytes = 4 / TOGETHER;
    memset(words, 0, (size_t)((K + FILL - 1) / FILL * FILL / TOGETHER * WORD_BYTES));
    for (int64_t n = 0; n < columns; n++)
        for (int64_t k = 0; k < K; k += TOGETHER)
            memcpy(words + k / TOGETHER * WORD_BYTES + n * 4, weights + (n * K + k) * bytes,
                   (size_t)(FRNN_MIN(TOGETHER, K - k) * bytes));
}

#undef MOST_ROWS
#undef MOST_VECTORS
#undef TILE_VECTORS
#undef TILE_ROWS
#undef ROW_VECTORS
#undef WORD_BYTES
#undef FAR_BYTES
#undef TILE
#undef TILES
#undef ENTRIES
#undef NARROW
#undef TOGETHER
#undef FILL
#undef HEAD
#undef argument
#undef total
#undef start
#undef dot
#undef finish
