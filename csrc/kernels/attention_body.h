/* Products of a few rows that are read once and in place, and the softmax of a row, for one dtype and instruction set.
 * Included by kernels_body.h.
 *
 * Every element is the same sum in the same order, whatever tile it is computed in.
 */
#define product FN(frnn_rows_product)

/* ---- C = A B^T: a sum runs along a row of A and a row of B ---- */

/* A tile has VL sums, of this many rows of A, each a vector until the end. */
#define DOTS_ROWS (VL_MOST >= 8 ? 4 : VL_MOST >= 4 ? 2 : 1)

/* One tile: rows m.. of A by rows n.. of B. Those past the last one are computed as if they were the last one. */
static ALWAYS_INLINE void FN(dots_tile)(const int rows, const product *p, int64_t m, int64_t n) {
    const int columns = VL_MOST / rows;
    const REAL *a[DOTS_ROWS], *b[VL_MOST];
    UNROLL_FOR(int i = 0; i < rows; i++) a[i] = p->A + FRNN_MIN(m + i, p->rows - 1) * p->a_row;
    UNROLL_FOR(int j = 0; j < columns; j++) b[j] = p->B + FRNN_MIN(n + j, p->columns - 1) * p->b_row;
    vec sum[VL_MOST], x[DOTS_ROWS];
    UNROLL_FOR(int i = 0; i < VL_MOST; i++) sum[i] = splat(0);
#define ADD(lanes)                                                                                                     \
    UNROLL_FOR(int i = 0; i < rows; i++) x[i] = load(a[i] + k, lanes);                                                 \
    UNROLL_FOR(int j = 0; j < columns; j++) {                                                                          \
        const vec y = load(b[j] + k, lanes);                                                                           \
        UNROLL_FOR(int i = 0; i < rows; i++) sum[i * columns + j] += x[i] * y;                                         \
    }
    int64_t k = 0;
    for (; k + VL <= p->K; k += VL) {
        ADD(VL)
    }
    if (k < p->K) {
        ADD(p->K - k)
    }
#undef ADD
    transpose(sum);
    vec total = sum[0];
    UNROLL_FOR(int i = 1; i < VL_MOST; i++) total += sum[i];
    REAL sums[VL_MOST];
    store(sums, total, VL);
    for (int i = 0; i < FRNN_MIN(rows, p->rows - m); i++)
        for (int j = 0; j < FRNN_MIN(columns, p->columns - n); j++)
            p->C[(m + i) * p->c_row + n + j] = sums[i * columns + j];
}

static void FN(dots)(const product *p) {
    int64_t m = 0;
    for (; DOTS_ROWS > 1 && m + 1 < p->rows; m += DOTS_ROWS)
        for (int64_t n = 0; n < p->columns; n += VL_MOST / DOTS_ROWS) FN(dots_tile)(DOTS_ROWS, p, m, n);
    for (; m < p->rows; m++)
        for (int64_t n = 0; n < p->columns; n += VL_MOST) FN(dots_tile)(1, p, m, n);
}

/* ---- C = beta*C + A B: sums of rows of B, weighted by A ---- */

#define WEIGH_ROWS 4
#define WEIGH_VECTORS (VECTOR_REGISTERS >= 32 ? 4 : 2)
#define WEIGH_ALONE 8 /* vectors of one row: several sums hide the latency of an addition */

static ALWAYS_INLINE void FN(weigh_tile)(const int rows, const int vectors, int64_t lanes, const product *p, int64_t m,
                                         int64_t n) {
    vec sum[WEIGH_ROWS][WEIGH_ALONE];
    REAL *C = p->C + m * p->c_row + n;
    UNROLL_FOR(int i = 0; i < rows; i++)
        UNROLL_FOR(int v = 0; v < vectors; v++) sum[i][v] = p->beta ? load(C + i * p->c_row + v * VL, lanes) : splat(0);
    for (int64_t k = 0; k < p->K; k++) {
        vec row[WEIGH_ALONE];
        UNROLL_FOR(int v = 0; v < vectors; v++) row[v] = load(p->B + k * p->b_row + n + v * VL, lanes);
        UNROLL_FOR(int i = 0; i < rows; i++) {
            const REAL a = p->A[(m + i) * p->a_row + k * p->a_k];
            UNROLL_FOR(int v = 0; v < vectors; v++) sum[i][v] += a * row[v];
        }
    }
    UNROLL_FOR(int i = 0; i < rows; i++)
        UNROLL_FOR(int v = 0; v < vectors; v++) store(C + i * p->c_row + v * VL, sum[i][v], lanes);
}

static ALWAYS_INLINE void FN(weigh_rows)(const int rows, const int vectors, const product *p, int64_t m) {
    int64_t n = 0;
    for (; n + vectors * VL <= p->columns; n += vectors * VL) FN(weigh_tile)(rows, vectors, VL, p, m, n);
    for (; n + VL <= p->columns; n += VL) FN(weigh_tile)(rows, 1, VL, p, m, n);
    if (n < p->columns) FN(weigh_tile)(rows, 1, p->columns - n, p, m, n);
}

static void FN(weigh)(const product *p) {
    int64_t m = 0;
    for (; m + WEIGH_ROWS <= p->rows; m += WEIGH_ROWS) FN(weigh_rows)(WEIGH_ROWS, WEIGH_VECTORS, p, m);
    for (; m < p->rows; m++) FN(weigh_rows)(1, WEIGH_ALONE, p, m);
}

/* ---- Rows ---- */

/* The sum of the first n lanes. */
static ALWAYS_INLINE REAL FN(sum_lanes)(vec v, int64_t n) {
    REAL lanes[VL_MOST], sum = 0;
    store(lanes, v, VL);
    for (int64_t i = 0; i < n; i++) sum += lanes[i];
    return sum;
}

/* The largest of n >= 1 values; NaN if one of them is. */
static REAL FN(largest)(int64_t n, const REAL *x) {
    REAL top = x[0];
    if (n < VL) {
        for (int64_t k = 0; k < n; k++) top = x[k] > top || x[k] != x[k] ? x[k] : top;
        return top;
    }
    const vec huge = splat(REAL_BITS == 32 ? (REAL)3.0e38 : (REAL)1.0e308);
    vec most[4], odd[4]; /* four side by side hide latencies; odd: sums of what is huge, where NaN stays */
    UNROLL_FOR(int i = 0; i < 4; i++) most[i] = load(x, VL), odd[i] = splat(0);
    for (int64_t k = 0; k < n; k += 4 * VL) {
        UNROLL_FOR(int i = 0; i < 4; i++) {
            const vec y = load(x + FRNN_MIN(k + i * VL, n - VL), VL); /* the last vectors overlap those before */
            most[i] = where_less(most[i], y, y, most[i]);
            odd[i] += where_less(y, huge, splat(0), y);
        }
    }
    REAL lanes[4 * VL_MOST];
    UNROLL_FOR(int i = 0; i < 4; i++) store(lanes + i * VL, most[i], VL);
    for (int64_t i = 0; i < 4 * VL; i++) top = lanes[i] > top ? lanes[i] : top;
    const REAL rest = FN(sum_lanes)((odd[0] + odd[1]) + (odd[2] + odd[3]), VL);
    return rest != rest ? rest : top;
}

/* x = softmax(x), of n >= 1 values */
static void FN(softmax)(int64_t n, REAL *x) {
    const vec top = splat(FN(largest)(n, x));
    vec total = splat(0);
    int64_t k = 0;
    for (; k + VL <= n; k += VL) {
        const vec y = vexp(load(x + k, VL) - top);
        store(x + k, y, VL);
        total += y;
    }
    REAL sum = FN(sum_lanes)(total, VL);
    if (k < n) {
        const vec y = vexp(load(x + k, n - k) - top);
        store(x + k, y, n - k);
        sum += FN(sum_lanes)(y, n - k);
    }
    const REAL scale = 1 / sum;
    for (k = 0; k < n; k += VL) store(x + k, load(x + k, n - k) * scale, n - k);
}

/* d = w*(d - sum(d*w)): the gradient of what w is the softmax of, from that of w */
static void FN(softmax_backward)(int64_t n, const REAL *w, REAL *d) {
    vec total = splat(0);
    for (int64_t k = 0; k < n; k += VL) total += load(w + k, n - k) * load(d + k, n - k);
    const REAL sum = FN(sum_lanes)(total, VL);
    for (int64_t k = 0; k < n; k += VL) store(d + k, load(w + k, n - k) * (load(d + k, n - k) - sum), n - k);
}

#undef product
#undef DOTS_ROWS
#undef WEIGH_ROWS
#undef WEIGH_VECTORS
#undef WEIGH_ALONE
