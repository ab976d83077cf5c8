/* What both passes use, for one dtype. */

typedef FN(frnn_product) product;

/* The kernels of a cell, from the selected set. */
static inline const CELL_KERNELS *FN(cell_kernels)(const frnn_cell *cell) {
    return frnn_kernels()->KERNELS_OF.cells[cell->kind];
}

/* The next `count` values of the workspace at `base`, from a 64-byte boundary on; null for none. */
static REAL *FN(take)(char *base, size_t *used, int64_t count) {
    REAL *p = base && count > 0 ? (REAL *)(base + *used) : NULL;
    *used += ((size_t)count * sizeof(REAL) + 63) / 64 * 64;
    return p;
}

static inline REAL *FN(series_at)(const frnn_steps *s, const frnn_series *series, int64_t t, int64_t b) {
    REAL *data = series->data;
    return s->starts ? data + frnn_place(s, t, b) * series->stride_t
                     : data + t * series->stride_t + b * series->stride_b;
}

static void FN(copy_or_clear)(REAL *to, const REAL *from, int64_t n) {
    if (from)
        memcpy(to, from, (size_t)n * sizeof(REAL));
    else
        memset(to, 0, (size_t)n * sizeof(REAL));
}

/* For each valid (t, b) of a chunk whose row there, `at`, is in `mine`; j is its row in the block. */
#define FOR_CHUNK_ROWS(chunk, steps, j0, mine)                                                                         \
    for (int64_t t = (chunk)->low; t < (chunk)->high; t++)                                                             \
        for (int64_t start = (chunk)->offset[t - (chunk)->low], at = FRNN_MAX(start, (mine).first), j = at - start, b; \
             at < FRNN_MIN((chunk)->offset[t - (chunk)->low + 1], (mine).end) && (b = frnn_row(steps, (j0) + j), 1);   \
             j++, at++)

/* A matrix: element (r, c) is at data[r*row + c/lanes*vector + c%lanes]. If `vector` is the number of lanes, it is
 * row-major; if `row` is, it is packed (csrc/README.md). */
typedef struct {
    REAL *data;
    int64_t row, vector;
} FN(matrix);

static inline int64_t FN(lanes)(void) { return frnn_kernels()->KERNELS_OF.lanes; }

static inline int64_t FN(vectors)(int64_t n) { return (n + FN(lanes)() - 1) / FN(lanes)(); }

/* n, filled up to whole vectors. */
static inline int64_t FN(filled)(int64_t n) { return (n + FN(lanes)() - 1) & -FN(lanes)(); }

static inline FN(matrix) FN(row_major)(const REAL *data, int64_t row) {
    return (FN(matrix)){(REAL *)data, row, FN(lanes)()};
}

/* What begins at row r and column c of a matrix; c is a whole number of vectors if it is packed. */
static inline FN(matrix) FN(at)(FN(matrix) m, int64_t r, int64_t c) {
    m.data += r * m.row + c / FN(lanes)() * m.vector + c % FN(lanes)();
    return m;
}

static inline FN(matrix) FN(every)(FN(matrix) m, int64_t step) {
    m.row *= step;
    return m;
}

/* Room in the workspace for (rows, n). Between the vectors of a packed matrix there is room for one more row, so that
 * they do not lie a power of two apart, where they would displace each other from the cache. */
static FN(matrix) FN(take_matrix)(char *base, size_t *used, int packed, int64_t rows, int64_t n) {
    const int64_t lanes = FN(lanes)(), stride = (rows + 1) * lanes;
    if (packed) return (FN(matrix)){FN(take)(base, used, rows > 0 ? FN(vectors)(n) * stride : 0), lanes, stride};
    return (FN(matrix)){FN(take)(base, used, rows * n), n, lanes};
}

/* n values into row r of a matrix, from column c on */
static void FN(put)(FN(matrix) m, int64_t r, int64_t c, int64_t n, const REAL *values) {
    const FN(matrix) to = FN(at)(m, r, c);
    if (m.vector == FN(lanes)())
        memcpy(to.data, values, (size_t)n * sizeof(REAL));
    else
        frnn_kernels()->KERNELS_OF.pack_row(n, values, to.data, to.vector, 0);
}

/* Rows of a series into a chunk's matrix (., n). */
static void FN(gather)(const frnn_series *from, const frnn_steps *steps, const frnn_chunk *chunk, int64_t j0, int64_t n,
                       FN(matrix) to, frnn_range mine) {
    FOR_CHUNK_ROWS(chunk, steps, j0, mine) FN(put)(to, at, 0, n, FN(series_at)(steps, from, t, b));
}

/* Zeros in a series (T, B, n) where a row has ended. */
static void FN(clear_past_ends)(const frnn_steps *s, const frnn_series *series, int64_t n, const frnn_team *team) {
    if (!s->lengths || s->starts) return;
    for (int64_t b = team->index; b < s->B; b += team->size)
        for (int64_t t = s->lengths[b]; t < s->T; t++)
            memset(FN(series_at)(s, series, t, b), 0, (size_t)n * sizeof(REAL));
}
