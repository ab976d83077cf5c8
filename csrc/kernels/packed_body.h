/* Products with packed weights, and their packing, for one dtype and instruction set. Included by kernels_body.h.
 *
 * Packed, a matrix R (K, columns) is a row of vectors. A vector holds VL neighbouring columns: for each k, one after
 * the other, the VL values R[k][columns of the vector]. csrc/README.md has a drawing.
 *
 * Every element of C is the same sum in the same order, whatever tile it is computed in. It adds up the sums of BLOCK_K
 * products each:
 *     s = a[0]*r[0], s = s + a[1]*r[1], ...;  c = c + s;  s = a[64]*r[64], ...;  c = c + s;  ...
 * So its bits do not depend on the rows and columns around it, nor on how these are shared among threads. And rounding
 * errors grow with the number of blocks and with their length, not with K.
 */
#define product FN(frnn_product)

/* A tile is the part of C that is held in registers while k runs: 24 sums where there are 32 registers, else 12. The
 * other registers are for R and A. Of the shapes that fit, that one is best which reads R least often: with the fewest
 * passes over the rows, and then with the most vectors. */
#if VECTOR_REGISTERS >= 32
#define MOST_ROWS 8
#define MOST_VECTORS 4
#define TILE_VECTORS(rows) ((rows) <= 6 ? 4 : 3)
#else
#define MOST_ROWS 6
#define MOST_VECTORS 2
#define TILE_VECTORS(rows) 2
#endif
/* A row alone has one sum for each vector. It takes this many vectors at a time, for an addition has to wait for the
 * one before it, and several sums hide that latency. */
#define ROW_VECTORS 8

#define BLOCK_K 128

/* k goes in chunks of this length, a multiple of BLOCK_K, so that the vectors of R that a tile reads (128 KiB) stay in
 * the L2 cache while the tiles of all rows read them, one after the other. */
#define TILE_K (128 * 1024 / (4 * VL * (int64_t)sizeof(REAL)))

/* If R has this many bytes or more, it may not fit into L2, and is prefetched. */
#define FAR_BYTES (1 << 20)

/* One tile. Where this is inlined, `rows` and `vectors` are constants, so the compiler keeps the arrays in registers.
 * `soon` is a vector of R that a later tile reads: this one prefetches it into L2, one cache line for each k. It may be
 * null. */
static ALWAYS_INLINE void FN(tile)(const int rows, const int vectors, const product *p, int64_t K, const REAL *A,
                                   const REAL *R, const REAL *soon, int beta, REAL *C, int64_t ldc) {
    const int64_t a_row = p->a_row, a_vector = p->a_vector, stride = p->stride, c_vector = p->c_vector;
    vec sum[MOST_ROWS][ROW_VECTORS];
#define ADD(k)                                                                                                         \
    {                                                                                                                  \
        vec r[ROW_VECTORS];                                                                                            \
        UNROLL_FOR(int v = 0; v < vectors; v++) r[v] = load(R + v * stride + (k) * VL, VL);                            \
        UNROLL_FOR(int m = 0; m < rows; m++) {                                                                         \
            const REAL a = A[m * a_row + (k)];                                                                         \
            UNROLL_FOR(int v = 0; v < vectors; v++) sum[m][v] += a * r[v];                                             \
        }                                                                                                              \
    }
    do {
        int64_t block = FRNN_MIN(K, BLOCK_K);
        K -= block;
        UNROLL_FOR(int m = 0; m < rows; m++)
            UNROLL_FOR(int v = 0; v < vectors; v++) sum[m][v] = splat(0);
        for (; block >= VL; block -= VL, A += a_vector, R += VL * VL) {
            if (soon)
                for (const REAL *end = soon + VL * VL; soon < end; soon += VL) PREFETCH_NEAR(soon);
            UNROLL_FOR_4(int64_t k = 0; k < VL; k++) ADD(k)
        }
        for (int64_t k = 0; k < block; k++) ADD(k)
        UNROLL_FOR(int m = 0; m < rows; m++)
            UNROLL_FOR(int v = 0; v < vectors; v++) {
                REAL *c = C + m * ldc + v * c_vector;
                store(c, beta ? load(c, VL) + sum[m][v] : sum[m][v], VL);
            }
        beta = 1;
    } while (K > 0);
#undef ADD
}

#define TILE(rows, vectors)                                                                                            \
    static void FN(tile_##rows##_##vectors)(const product *p, int64_t K, const REAL *A, const REAL *R,                 \
                                            const REAL *soon, int beta, REAL *C, int64_t ldc) {                        \
        FN(tile)(rows, vectors, p, K, A, R, soon, beta, C, ldc);                                                       \
    }
#define TILES(vectors)                                                                                                 \
    TILE(1, vectors) TILE(2, vectors) TILE(3, vectors) TILE(4, vectors) TILE(5, vectors) TILE(6, vectors)
#define ENTRIES(vectors)                                                                                               \
    FN(tile_1_##vectors), FN(tile_2_##vectors), FN(tile_3_##vectors), FN(tile_4_##vectors), FN(tile_5_##vectors),      \
        FN(tile_6_##vectors)

typedef void (*FN(tile_function))(const product *, int64_t, const REAL *, const REAL *, const REAL *, int, REAL *,
                                  int64_t);
TILE(1, 8)
TILES(1)
TILES(2)
#if MOST_ROWS == 8
#define TALL_TILES(vectors) TILE(7, vectors) TILE(8, vectors)
#define TALL_ENTRIES(vectors) FN(tile_7_##vectors), FN(tile_8_##vectors)
TALL_TILES(1)
TALL_TILES(2)
TILES(3)
TALL_TILES(3)
TILES(4)
static const FN(tile_function) FN(tiles)[MOST_VECTORS][MOST_ROWS] = {
    {ENTRIES(1), TALL_ENTRIES(1)},
    {ENTRIES(2), TALL_ENTRIES(2)},
    {ENTRIES(3), TALL_ENTRIES(3)},
    {ENTRIES(4)},
};
#undef TALL_TILES
#undef TALL_ENTRIES
#else
static const FN(tile_function) FN(tiles)[MOST_VECTORS][MOST_ROWS] = {{ENTRIES(1)}, {ENTRIES(2)}};
#endif

/* All rows of C, for `width` columns from n on, which are at most TILE_VECTORS vectors. The tiles differ by one row at
 * most. */
static void FN(multiply_columns)(const product *p, int64_t n, int64_t width) {
    const int64_t most = p->rows <= MOST_ROWS ? MOST_ROWS : 6, tiles = (p->rows + most - 1) / most;
    const int64_t vectors = (width + VL - 1) / VL;
    const int64_t chunk = tiles > 1 ? TILE_K : p->K; /* a single tile reads R once: nothing has to stay in the cache */
    const int far = p->columns * p->K * (int64_t)sizeof(REAL) >= FAR_BYTES;
    const REAL *R = (const REAL *)p->R + n / VL * p->stride;
    for (int64_t k = 0; k < p->K; k += chunk)
        for (int64_t i = 0; i < tiles; i++) {
            const int64_t m = p->rows * i / tiles, rows = p->rows * (i + 1) / tiles - m, K = FRNN_MIN(chunk, p->K - k);
            const int beta = k > 0 || p->beta;
            const FN(tile_function) tile = FN(tiles)[vectors - 1][rows - 1];
            const REAL *A = p->A + m * p->a_row + k / VL * p->a_vector;
            /* What is read after these tiles is the next chunk of the same vectors, or else the vectors beside them.
             * Tile i prefetches vector i of it. */
            const REAL *next = k + chunk < p->K ? R + (k + chunk) * VL : R + vectors * p->stride;
            const REAL *soon = far && i < vectors ? next + i * p->stride : NULL;
            REAL *C = p->C + m * p->ldc + n / VL * p->c_vector;
            if (width == vectors * VL) {
                tile(p, K, A, R + k * VL, soon, beta, C, p->ldc);
            } else { /* the last vector is wider than what is left of C: compute beside C */
                REAL whole[MOST_ROWS][MOST_VECTORS * VL];
                for (int64_t r = 0; beta && r < rows; r++)
                    memcpy(whole[r], C + r * p->ldc, (size_t)width * sizeof(REAL));
                tile(p, K, A, R + k * VL, soon, beta, whole[0], MOST_VECTORS * VL);
                for (int64_t r = 0; r < rows; r++) memcpy(C + r * p->ldc, whole[r], (size_t)width * sizeof(REAL));
            }
        }
}

/* C = beta*C + A R, R packed. */
static void FN(multiply)(const product *p) {
    const int64_t step = (p->rows == 1 ? ROW_VECTORS : TILE_VECTORS(p->rows <= MOST_ROWS ? p->rows : 6)) * VL;
    const int64_t steps = (p->columns + step - 1) / step;
    for (int64_t i = 0; i < steps; i++) {
        const int64_t n = (p->descending ? steps - 1 - i : i) * step, end = FRNN_MIN(n + step, p->columns);
        if (p->rows == 1 && end - n == step)
            FN(tile_1_8)(p, p->K, p->A, (const REAL *)p->R + n / VL * p->stride, NULL, p->beta,
                         p->C + n / VL * p->c_vector, p->ldc);
        else
            for (int64_t m = n; m < end; m += MOST_VECTORS * VL)
                FN(multiply_columns)(p, m, FRNN_MIN(MOST_VECTORS * VL, end - m));
    }
}

/* ---- Packing ---- */

/* Packs `rows` columns and `count` rows of R, at most VL each, out of the transpose. */
static ALWAYS_INLINE void FN(pack_square)(int64_t rows, int64_t count, const REAL *weights, int64_t ld, REAL *packed) {
    vec square[VL_MOST];
    UNROLL_FOR(int i = 0; i < VL_MOST; i++) square[i] = i < rows ? load(weights + i * ld, count) : splat(0);
    transpose(square);
    UNROLL_FOR(int i = 0; i < VL_MOST; i++)
        if (i < count) store(packed + i * VL, square[i], VL);
}

/* Packs R (K, columns), which is weights (K, columns), or if `transposed` the transpose of weights (columns, K); `ld`
 * values lie between rows of the weights. The last vector is filled up with zeros. */
static void FN(pack)(int transposed, int64_t K, int64_t columns, const REAL *weights, int64_t ld, void *to,
                     int64_t stride) {
    REAL *packed = to;
    for (int64_t n = 0; n < columns; n += VL, packed += stride) {
        const int64_t lanes = FRNN_MIN(VL, columns - n);
        if (!transposed) {
            for (int64_t k = 0; k < K; k++) store(packed + k * VL, load(weights + k * ld + n, lanes), VL);
            continue;
        }
        int64_t k = 0;
        if (lanes == VL)
            for (; k + VL <= K; k += VL) FN(pack_square)(VL, VL, weights + n * ld + k, ld, packed + k * VL);
        for (; k < K; k += VL) FN(pack_square)(lanes, FRNN_MIN(VL, K - k), weights + n * ld + k, ld, packed + k * VL);
    }
}

#undef product
#undef MOST_ROWS
#undef MOST_VECTORS
#undef TILE_VECTORS
#undef ROW_VECTORS
#undef BLOCK_K
#undef TILE_K
#undef FAR_BYTES
#undef TILE
#undef TILES
#undef ENTRIES
