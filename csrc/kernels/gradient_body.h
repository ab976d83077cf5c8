/* Products for the gradients of weights, and the packing of what they read, for one dtype and instruction set. Included
 * by kernels_body.h. Here both factors are activations or their gradients, packed as packed_body.h says.
 */
#define product FN(frnn_product)

/* ---- C = beta*C + A^T R, A and R packed: sums over many rows ---- */

/* A tile is this many columns of A by three vectors of R. */
#define GRADIENT_ROWS FRNN_MIN(VL, VECTOR_REGISTERS >= 32 ? 8 : 4)
#define GRADIENT_VECTORS 3
/* The sums run over this many rows, so that what a tile reads of A and R stays in the L1 cache; then they are added to
 * C. */
#define GRADIENT_K 128

static ALWAYS_INLINE void FN(gradient_tile)(const int vectors, const product *p, int64_t K, const REAL *A,
                                            const REAL *R, int64_t rows, int64_t width, int beta, REAL *C) {
    vec sum[8][GRADIENT_VECTORS];
    UNROLL_FOR(int m = 0; m < GRADIENT_ROWS; m++)
        UNROLL_FOR(int v = 0; v < vectors; v++) sum[m][v] = splat(0);
    for (int64_t m = 0; m < rows; m++) /* C is read once the sums are complete */
        UNROLL_FOR(int v = 0; v < vectors; v++) PREFETCH(C + m * p->ldc + v * VL);
    UNROLL_FOR_4(int64_t k = 0; k < K; k++) {
        vec r[GRADIENT_VECTORS];
        UNROLL_FOR(int v = 0; v < vectors; v++) r[v] = load(R + v * p->stride + k * VL, VL);
        UNROLL_FOR(int m = 0; m < GRADIENT_ROWS; m++) {
            const REAL a = A[k * VL + m];
            UNROLL_FOR(int v = 0; v < vectors; v++) sum[m][v] += a * r[v];
        }
    }
    UNROLL_FOR(int m = 0; m < GRADIENT_ROWS; m++)
        if (m < rows)
            UNROLL_FOR(int v = 0; v < vectors; v++) {
                REAL *c = C + m * p->ldc + v * VL;
                const int64_t lanes = FRNN_MIN(VL, width - v * VL);
                store(c, beta ? load(c, lanes) + sum[m][v] : sum[m][v], lanes);
            }
}

/* `rows` counts the columns of A, a_vector is the distance of its vectors. */
static void FN(add_gradient)(const product *p) {
    const int64_t step = GRADIENT_VECTORS * VL;
    for (int64_t k = 0; k < p->K; k += GRADIENT_K) {
        const int64_t K = FRNN_MIN(GRADIENT_K, p->K - k);
        const int beta = k > 0 || p->beta;
        for (int64_t n = 0; n < p->columns; n += step)
            for (int64_t m = 0; m < p->rows; m += GRADIENT_ROWS) {
                const REAL *A = p->A + m / VL * p->a_vector + k * VL + m % VL;
                const REAL *R = (const REAL *)p->R + n / VL * p->stride + k * VL;
                const int64_t rows = FRNN_MIN(GRADIENT_ROWS, p->rows - m), width = FRNN_MIN(step, p->columns - n);
                REAL *C = p->C + m * p->ldc + n;
                if (width > 2 * VL)
                    FN(gradient_tile)(3, p, K, A, R, rows, width, beta, C);
                else if (width > VL)
                    FN(gradient_tile)(2, p, K, A, R, rows, width, beta, C);
                else
                    FN(gradient_tile)(1, p, K, A, R, rows, width, beta, C);
            }
    }
}

/* sum (n) += the sums of a packed matrix's columns over `rows` rows */
static void FN(add_columns)(int64_t rows, int64_t n, const REAL *packed, int64_t stride, REAL *sum) {
    for (int64_t u = 0; u < n; u += VL, packed += stride) {
        /* four sums side by side hide the latency of an addition */
        vec part[4] = {splat(0), splat(0), splat(0), splat(0)};
        int64_t row = 0;
        for (; row + 4 <= rows; row += 4)
            UNROLL_FOR(int i = 0; i < 4; i++) part[i] += load(packed + (row + i) * VL, VL);
        for (; row < rows; row++) part[0] += load(packed + row * VL, VL);
        const int64_t lanes = FRNN_MIN(VL, n - u);
        store(sum + u, load(sum + u, lanes) + ((part[0] + part[1]) + (part[2] + part[3])), lanes);
    }
}

/* Puts a row of `n` values into row `at` of a packed matrix. */
static void FN(pack_row)(int64_t n, const REAL *row, REAL *packed, int64_t stride, int64_t at) {
    int64_t u = 0;
    packed += at * VL;
    for (; u + VL <= n; u += VL, packed += stride) store(packed, load(row + u, VL), VL);
    if (u < n) store(packed, load(row + u, n - u), VL);
}

#undef product
#undef GRADIENT_ROWS
#undef GRADIENT_VECTORS
#undef GRADIENT_K
