/* Matrix products with packed factors, for one dtype and instruction set. Included by kernels_body.h.
 *
 * Packed, a matrix is vector after vector of VL columns, each with its rows one after the other: `pack` below.
 *
 * Every element of C is the same sum in the same order whatever tile it falls in,
 *     c = c + a[0]*r[0], c = c + a[1]*r[1], ...
 * so its bits do not depend on the rows and columns around it, nor on how these are shared among threads.
 */
#define product FN(frnn_product)

/* A tile holds its part of C in registers while k runs: 24 sums where there are 32 registers, else 12; the others are for
 * R and A. Which shape reads R least often is best: the fewest passes over the rows, then the most vectors. */
#if VECTOR_REGISTERS >= 32
#define MOST_ROWS 8
#define MOST_VECTORS 4
#define TILE_VECTORS(rows) ((rows) <= 6 ? 4 : 3)
#else
#define MOST_ROWS 6
#define MOST_VECTORS 2
#define TILE_VECTORS(rows) 2
#endif
/* One row alone: as many sums as hide the latency of adding to each. */
#define ROW_VECTORS 8

/* So many k at a time that a tile's part of R stays in L2 while rows pass over it. */
#define TILE_K (128 * 1024 / (4 * VL * (int64_t)sizeof(REAL)))

/* An R of so many bytes may lie beyond L2. */
#define FAR_BYTES (1 << 20)

/* `rows` and `vectors` are constants where this is inlined; the arrays become registers. `soon` is to be fetched by the
 * way, a line for each k; or null. */
static ALWAYS_INLINE void FN(tile)(const int rows, const int vectors, const product *p, int64_t K, const REAL *A,
                                   const REAL *R, const REAL *soon, int beta, REAL *C, int64_t ldc) {
    const int64_t a_row = p->a_row, a_vector = p->a_vector, stride = p->stride;
    vec sum[MOST_ROWS][ROW_VECTORS];
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[m][v] = beta ? load(C + m * ldc + v * VL, VL) : splat(0);
#define ADD(k)                                                                                                         \
    {                                                                                                                  \
        vec r[ROW_VECTORS];                                                                                            \
        UNROLL for (int v = 0; v < vectors; v++) r[v] = load(R + v * stride + (k) * VL, VL);                           \
        UNROLL for (int m = 0; m < rows; m++) {                                                                        \
            const REAL a = A[m * a_row + (k)];                                                                         \
            UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += a * r[v];                                            \
        }                                                                                                              \
    }
    for (; K >= VL; K -= VL, A += a_vector, R += VL * VL) {
        if (soon)
            for (const REAL *end = soon + VL * VL; soon < end; soon += VL) PREFETCH_NEAR(soon);
        UNROLL_4 for (int64_t k = 0; k < VL; k++) ADD(k)
    }
    for (int64_t k = 0; k < K; k++) ADD(k)
#undef ADD
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++) store(C + m * ldc + v * VL, sum[m][v], VL);
}

#define TILE(rows, vectors)                                                                                            \
    static void FN(tile_##rows##_##vectors)(const product *p, int64_t K, const REAL *A, const REAL *R,                 \
                                            const REAL *soon, int beta, REAL *C, int64_t ldc) {                        \
        FN(tile)(rows, vectors, p, K, A, R, soon, beta, C, ldc);                                                             \
    }
#define TILES(vectors)                                                                                                 \
    TILE(1, vectors) TILE(2, vectors) TILE(3, vectors) TILE(4, vectors) TILE(5, vectors) TILE(6, vectors)
#define ENTRIES(vectors)                                                                                               \
    FN(tile_1_##vectors), FN(tile_2_##vectors), FN(tile_3_##vectors), FN(tile_4_##vectors), FN(tile_5_##vectors),      \
        FN(tile_6_##vectors)

typedef void (*FN(tile_function))(const product *, int64_t, const REAL *, const REAL *, const REAL *, int, REAL *, int64_t);
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

/* The rows of C for `width` columns from n on, at most TILE_VECTORS vectors, in tiles as even as can be. */
static void FN(multiply_columns)(const product *p, int64_t n, int64_t width) {
    const int64_t most = p->rows <= MOST_ROWS ? MOST_ROWS : 6, tiles = (p->rows + most - 1) / most;
    const int64_t vectors = (width + VL - 1) / VL;
    const int64_t chunk = tiles > 1 ? TILE_K : p->K; /* one tile passes over R once: nothing to keep */
    const int far = p->columns * p->K * (int64_t)sizeof(REAL) >= FAR_BYTES;
    const REAL *R = p->R + n / VL * p->stride;
    for (int64_t k = 0; k < p->K; k += chunk)
        for (int64_t i = 0; i < tiles; i++) {
            const int64_t m = p->rows * i / tiles, rows = p->rows * (i + 1) / tiles - m, K = FRNN_MIN(chunk, p->K - k);
            const int beta = k > 0 || p->beta;
            const FN(tile_function) tile = FN(tiles)[vectors - 1][rows - 1];
            const REAL *A = p->A + m * p->a_row + k / VL * p->a_vector;
            /* while a tile runs, the part of R that its number names of those wanted next comes nearer */
            const REAL *next = k + chunk < p->K ? R + (k + chunk) * VL : R + vectors * p->stride;
            const REAL *soon = far && i < vectors ? next + i * p->stride : NULL;
            REAL *C = p->C + m * p->ldc + n;
            if (width == vectors * VL) {
                tile(p, K, A, R + k * VL, soon, beta, C, p->ldc);
            } else { /* the last vector hangs over: compute beside C */
                REAL whole[MOST_ROWS][MOST_VECTORS * VL];
                for (int64_t r = 0; beta && r < rows; r++) memcpy(whole[r], C + r * p->ldc, (size_t)width * sizeof(REAL));
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
            FN(tile_1_8)(p, p->K, p->A, p->R + n / VL * p->stride, NULL, p->beta, p->C + n, p->ldc);
        else
            for (int64_t m = n; m < end; m += MOST_VECTORS * VL) FN(multiply_columns)(p, m, FRNN_MIN(MOST_VECTORS * VL, end - m));
    }
}

/* ---- C += A^T R, A and R packed: gradients of weights, sums over many rows ---- */

/* A tile is this many columns of A by three vectors of R. */
#define GRADIENT_ROWS FRNN_MIN(VL, VECTOR_REGISTERS >= 32 ? 8 : 4)
#define GRADIENT_VECTORS 3
/* So many rows at a time that a tile's parts of A and R stay in L1; then their sum is added to C. */
#define GRADIENT_K 128

static ALWAYS_INLINE void FN(gradient_tile)(const int vectors, const product *p, int64_t K, const REAL *A, const REAL *R,
                                            int64_t rows, int64_t width, REAL *C) {
    vec sum[8][GRADIENT_VECTORS];
    UNROLL for (int m = 0; m < GRADIENT_ROWS; m++)
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = splat(0);
    for (int64_t m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++) PREFETCH(C + m * p->ldc + v * VL); /* wanted when k is through */
    UNROLL_4 for (int64_t k = 0; k < K; k++) {
        vec r[GRADIENT_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) r[v] = load(R + v * p->stride + k * VL, VL);
        UNROLL for (int m = 0; m < GRADIENT_ROWS; m++) {
            const REAL a = A[k * VL + m];
            UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += a * r[v];
        }
    }
    UNROLL for (int m = 0; m < GRADIENT_ROWS; m++)
        if (m < rows)
            UNROLL for (int v = 0; v < vectors; v++) {
                REAL *c = C + m * p->ldc + v * VL;
                const int64_t lanes = FRNN_MIN(VL, width - v * VL);
                store(c, load(c, lanes) + sum[m][v], lanes);
            }
}

/* `rows` counts the columns of A, a_vector is the distance of its vectors. */
static void FN(add_gradient)(const product *p) {
    const int64_t step = GRADIENT_VECTORS * VL;
    for (int64_t k = 0; k < p->K; k += GRADIENT_K) {
        const int64_t K = FRNN_MIN(GRADIENT_K, p->K - k);
        for (int64_t n = 0; n < p->columns; n += step)
            for (int64_t m = 0; m < p->rows; m += GRADIENT_ROWS) {
                const REAL *A = p->A + m / VL * p->a_vector + k * VL + m % VL, *R = p->R + n / VL * p->stride + k * VL;
                const int64_t rows = FRNN_MIN(GRADIENT_ROWS, p->rows - m), width = FRNN_MIN(step, p->columns - n);
                REAL *C = p->C + m * p->ldc + n;
                if (width > 2 * VL)
                    FN(gradient_tile)(3, p, K, A, R, rows, width, C);
                else if (width > VL)
                    FN(gradient_tile)(2, p, K, A, R, rows, width, C);
                else
                    FN(gradient_tile)(1, p, K, A, R, rows, width, C);
            }
    }
}

/* sum (n) += the sums of a packed matrix's columns over `rows` rows */
static void FN(add_columns)(int64_t rows, int64_t n, const REAL *packed, int64_t stride, REAL *sum) {
    for (int64_t u = 0; u < n; u += VL, packed += stride) {
        vec part[4] = {splat(0), splat(0), splat(0), splat(0)}; /* adding takes a while: four sums side by side */
        int64_t row = 0;
        for (; row + 4 <= rows; row += 4)
            UNROLL for (int i = 0; i < 4; i++) part[i] += load(packed + (row + i) * VL, VL);
        for (; row < rows; row++) part[0] += load(packed + row * VL, VL);
        const int64_t lanes = FRNN_MIN(VL, n - u);
        store(sum + u, load(sum + u, lanes) + ((part[0] + part[1]) + (part[2] + part[3])), lanes);
    }
}

/* ---- Packing ---- */

/* Some vectors of columns of R (K, columns): R = weights^T, weights (columns, K), or R = weights (K, columns). */
static void FN(pack)(int transposed, int64_t K, int64_t columns, const REAL *weights, int64_t ld, REAL *packed,
                     int64_t stride) {
    for (int64_t n = 0; n < columns; n += VL, packed += stride) {
        const int64_t lanes = FRNN_MIN(VL, columns - n);
        if (!transposed) {
            for (int64_t k = 0; k < K; k++) store(packed + k * VL, load(weights + k * ld + n, lanes), VL);
            continue;
        }
        for (int64_t k0 = 0; k0 < K; k0 += VL) { /* squares: both sides stay in L1 */
            const int64_t k1 = FRNN_MIN(k0 + VL, K);
            for (int64_t lane = 0; lane < VL; lane++) {
                const REAL *from = weights + (n + lane) * ld;
                for (int64_t k = k0; k < k1; k++) packed[k * VL + lane] = lane < lanes ? from[k] : 0;
            }
        }
    }
}

/* A row of `n` values into row `at` of a packed matrix. */
static void FN(pack_row)(int64_t n, const REAL *row, REAL *packed, int64_t stride, int64_t at) {
    int64_t u = 0;
    packed += at * VL;
    for (; u + VL <= n; u += VL, packed += stride) store(packed, load(row + u, VL), VL);
    if (u < n) store(packed, load(row + u, n - u), VL);
}

#undef product
#undef MOST_ROWS
#undef MOST_VECTORS
#undef TILE_VECTORS
#undef ROW_VECTORS
#undef TILE_K
#undef FAR_BYTES
#undef TILE
#undef TILES
#undef ENTRIES
#undef GRADIENT_ROWS
#undef GRADIENT_VECTORS
#undef GRADIENT_K
