/* Matrix products with packed weights, for one dtype and instruction set. Included by kernels_body.h.
 *
 * C (rows, columns) = beta*C + A (rows, K) R (K, columns), where R is packed by `pack` below: vector after
 * vector of VL columns, each with its K rows contiguous. A tile holds up to TILE_ROWS rows of TILE_VECTORS vectors of C in
 * registers while k runs. Every element of C is the same sum in the same order whatever tile it falls in,
 *     c = c + a[0]*r[0], c = c + a[1]*r[1], ...
 * so its bits do not depend on the rows around it, nor on how columns are shared among threads.
 */
#define product FN(frnn_product)

#if VECTOR_REGISTERS >= 32 /* 24 sums, 4 of R, a of A */
#define TILE_VECTORS 4
#else /* 12 sums, 2 of R, a of A */
#define TILE_VECTORS 2
#endif
#define TILE_ROWS 6
/* One row alone: as many sums as hide the latency of adding to each. */
#define ROW_VECTORS 8

/* So many k at a time that the tile's part of R stays in L1 while rows pass over it. */
#define TILE_K (24 * 1024 / (TILE_VECTORS * VL * (int64_t)sizeof(REAL)))

/* `rows` and `vectors` are constants where this is inlined; the arrays become registers. */
static ALWAYS_INLINE void FN(tile)(const int rows, const int vectors, int64_t K, const REAL *A, int64_t lda, const REAL *R,
                                   int64_t stride, int beta, REAL *C, int64_t ldc) {
    vec sum[TILE_ROWS][ROW_VECTORS];
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[m][v] = beta ? load(C + m * ldc + v * VL, VL) : splat(0);
    for (int64_t k = 0; k < K; k++) {
        vec r[ROW_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) r[v] = load(R + v * stride + k * VL, VL);
        UNROLL for (int m = 0; m < rows; m++) {
            const REAL a = A[m * lda + k];
            UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += a * r[v];
        }
    }
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++) store(C + m * ldc + v * VL, sum[m][v], VL);
}

#define TILE(rows, vectors)                                                                                            \
    static void FN(tile_##rows##_##vectors)(int64_t K, const REAL *A, int64_t lda, const REAL *R, int64_t stride,      \
                                            int beta, REAL *C, int64_t ldc) {                                          \
        FN(tile)(rows, vectors, K, A, lda, R, stride, beta, C, ldc);                                                   \
    }
#define TILES(vectors)                                                                                                 \
    TILE(1, vectors) TILE(2, vectors) TILE(3, vectors) TILE(4, vectors) TILE(5, vectors) TILE(6, vectors)
#define ENTRIES(vectors)                                                                                               \
    {FN(tile_1_##vectors), FN(tile_2_##vectors), FN(tile_3_##vectors), FN(tile_4_##vectors), FN(tile_5_##vectors),     \
     FN(tile_6_##vectors)}

TILES(1)
TILES(2)
#if TILE_VECTORS == 4
TILES(3)
TILES(4)
#endif
TILE(1, 8)

typedef void (*FN(tile_function))(int64_t, const REAL *, int64_t, const REAL *, int64_t, int, REAL *, int64_t);
static const FN(tile_function) FN(tiles)[TILE_VECTORS][TILE_ROWS] = {
    ENTRIES(1),
    ENTRIES(2),
#if TILE_VECTORS == 4
    ENTRIES(3),
    ENTRIES(4),
#endif
};

static void FN(multiply)(const product *p) {
    if (p->rows == 1 && p->columns >= ROW_VECTORS * VL) {
        const int64_t wide = p->columns / (ROW_VECTORS * VL) * (ROW_VECTORS * VL);
        for (int64_t n = 0; n < wide; n += ROW_VECTORS * VL)
            FN(tile_1_8)(p->K, p->A, p->lda, p->R + n / VL * p->stride, p->stride, p->beta, p->C + n, p->ldc);
        product rest = *p;
        rest.columns -= wide, rest.R += wide / VL * p->stride, rest.C += wide;
        if (rest.columns > 0) FN(multiply)(&rest);
        return;
    }
    const int64_t chunk = p->rows > TILE_ROWS ? TILE_K : p->K; /* few rows pass over R once: nothing to keep */
    for (int64_t n = 0; n < p->columns; n += TILE_VECTORS * VL) {
        const int64_t width = FRNN_MIN(TILE_VECTORS * VL, p->columns - n), vectors = (width + VL - 1) / VL;
        const REAL *R = p->R + n / VL * p->stride;
        for (int64_t k = 0; k < p->K; k += chunk)
            for (int64_t m = 0; m < p->rows; m += TILE_ROWS) {
                const int64_t rows = FRNN_MIN(TILE_ROWS, p->rows - m), count = FRNN_MIN(chunk, p->K - k);
                const int beta = k > 0 || p->beta;
                const FN(tile_function) tile = FN(tiles)[vectors - 1][rows - 1];
                const REAL *A = p->A + m * p->lda + k;
                REAL *C = p->C + m * p->ldc + n;
                if (width == vectors * VL) {
                    tile(count, A, p->lda, R + k * VL, p->stride, beta, C, p->ldc);
                } else { /* the last vector hangs over: compute beside C */
                    REAL whole[TILE_ROWS][TILE_VECTORS * VL];
                    for (int64_t r = 0; beta && r < rows; r++) memcpy(whole[r], C + r * p->ldc, (size_t)width * sizeof(REAL));
                    tile(count, A, p->lda, R + k * VL, p->stride, beta, whole[0], TILE_VECTORS * VL);
                    for (int64_t r = 0; r < rows; r++) memcpy(C + r * p->ldc, whole[r], (size_t)width * sizeof(REAL));
                }
            }
    }
}

/* Pack the vectors of columns first..first+columns-1 of R = weights^T, weights (N, K), or R = weights (K, N). */
static void FN(pack)(int transposed, int64_t K, int64_t columns, const REAL *weights, int64_t ld, REAL *packed,
                     int64_t stride) {
    for (int64_t n = 0; n < columns; n += VL, packed += stride) {
        const int64_t lanes = FRNN_MIN(VL, columns - n);
        for (int64_t k = 0; k < K; k++) {
            REAL *to = packed + k * VL;
            for (int64_t lane = 0; lane < VL; lane++)
                to[lane] = lane >= lanes ? 0 : transposed ? weights[(n + lane) * ld + k] : weights[k * ld + n + lane];
        }
    }
}

#undef product
#undef TILE_VECTORS
#undef TILE_ROWS
#undef ROW_VECTORS
#undef TILE_K
#undef TILE
#undef TILES
#undef ENTRIES
