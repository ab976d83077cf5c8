/* The right-hand factor of a product, A R, for one dtype: weights as BLAS takes them, or packed for our own kernels.
 *
 * R (K, blocks*N) is the weights, or their transpose; blocks are gates. Packed, a block is a whole number of vectors, each
 * of which keeps its K rows together and one line away from the next, so that vectors do not alias in the cache.
 */

typedef struct {
    int64_t K, N, blocks;
    const REAL *weights; /* (blocks*N, K) if transposed, else (K, N) with one block */
    int transposed;
    const REAL *packed; /* null: BLAS multiplies */
    int64_t stride;     /* of packed, from vector to vector */
} FN(factor);

static inline int64_t FN(vectors)(int64_t n) {
    const int64_t lanes = frnn_kernels()->KERNELS_OF.lanes;
    return (n + lanes - 1) / lanes;
}

/* The distance between blocks of N columns in an array that products write: a whole number of vectors when packed. */
static inline int64_t FN(plane)(const frnn_cell *cell) {
    return cell->packed ? FN(vectors)(cell->H) * frnn_kernels()->KERNELS_OF.lanes : cell->H;
}

/* C[block b's columns n0..n1-1] = beta*C + A (rows, k0..k1-1) R, for blocks b0..b1-1, which lie `plane` apart in C. */
static void FN(multiply)(const FN(factor) *f, int64_t rows, const REAL *A, int64_t lda, int64_t k0, int64_t k1, int b0,
                         int b1, int64_t n0, int64_t n1, int beta, REAL *C, int64_t ldc, int64_t plane) {
    const KERNELS *kernels = &frnn_kernels()->KERNELS_OF;
    if (rows == 0 || n0 == n1) return;
    if (f->packed) {
        const int64_t vectors = FN(vectors)(f->N), first = n0 / kernels->lanes;
        FN(frnn_product) p = {.rows = rows, .K = k1 - k0, .A = A, .lda = lda, .stride = f->stride, .beta = beta, .ldc = ldc};
        if (n0 == 0 && n1 == f->N && plane == vectors * kernels->lanes && b1 - b0 > 1) { /* all blocks at once */
            p.R = f->packed + b0 * vectors * f->stride + k0 * kernels->lanes, p.columns = (b1 - b0) * plane;
            p.C = C + b0 * plane;
            kernels->multiply(&p);
            return;
        }
        for (int b = b0; b < b1; b++) {
            p.R = f->packed + (b * vectors + first) * f->stride + k0 * kernels->lanes, p.columns = n1 - n0;
            p.C = C + b * plane + n0;
            kernels->multiply(&p);
        }
    } else if (!f->transposed) {
        GEMM(0, 0, rows, n1 - n0, k1 - k0, A, lda, f->weights + k0 * f->N + n0, f->N, beta, C + n0, ldc);
    } else if (n0 == 0 && n1 == f->N && plane == f->N) {
        GEMM(0, 1, rows, (b1 - b0) * f->N, f->K, A, lda, f->weights + b0 * f->N * f->K, f->K, beta, C + b0 * plane, ldc);
    } else {
        for (int b = b0; b < b1; b++)
            GEMM(0, 1, rows, n1 - n0, f->K, A, lda, f->weights + (b * f->N + n0) * f->K, f->K, beta, C + b * plane + n0,
                 ldc);
    }
}

static int64_t FN(packed_size)(const FN(factor) *f) {
    return (f->blocks * FN(vectors)(f->N) * f->stride + 15) / 16 * 16; /* in values; keeps what follows aligned */
}

/* The factors of a pass: of its input, its state and, if there is one, its projection. */
typedef struct {
    FN(factor) input, state, projection;
} FN(factors);

static FN(factors) FN(factors_of)(const frnn_cell *cell, frnn_pass pass) {
    const int64_t I = cell->I, H = cell->H, O = cell->O, G = frnn_gates(cell);
    FN(factors) f;
    if (pass == FRNN_FORWARD) { /* x W^T, h U^T, m W_hr^T */
        f.input = (FN(factor)){.K = I, .N = H, .blocks = G, .weights = cell->w_ih, .transposed = 1};
        f.state = (FN(factor)){.K = O, .N = H, .blocks = G, .weights = cell->w_hh, .transposed = 1};
        f.projection = (FN(factor)){.K = H, .N = O, .blocks = 1, .weights = cell->w_hr, .transposed = 1};
    } else { /* da W, da U, dh W_hr */
        f.input = (FN(factor)){.K = G * H, .N = I, .blocks = 1, .weights = cell->w_ih};
        f.state = (FN(factor)){.K = G * H, .N = O, .blocks = 1, .weights = cell->w_hh};
        f.projection = (FN(factor)){.K = O, .N = H, .blocks = 1, .weights = cell->w_hr};
    }
    const REAL *packed = cell->packed;
    FN(factor) *all[] = {&f.input, &f.state, &f.projection};
    for (int i = 0; i < 3; i++) {
        all[i]->stride = (all[i]->K + 1) * frnn_kernels()->KERNELS_OF.lanes;
        all[i]->packed = packed;
        if (packed && all[i]->weights) packed += FN(packed_size)(all[i]);
    }
    return f;
}

int64_t FN(frnn_pack_bytes)(const frnn_cell *cell, frnn_pass pass) {
    const FN(factors) f = FN(factors_of)(cell, pass);
    const int64_t projection = cell->w_hr ? FN(packed_size)(&f.projection) : 0;
    return (FN(packed_size)(&f.input) + FN(packed_size)(&f.state) + projection) * (int64_t)sizeof(REAL);
}

void FN(frnn_pack)(const frnn_cell *cell, frnn_pass pass, void *packed) {
    frnn_cell target = *cell;
    target.packed = packed;
    const FN(factors) f = FN(factors_of)(&target, pass);
    const FN(factor) *all[] = {&f.input, &f.state, &f.projection};
    for (int i = 0; i < (cell->w_hr ? 3 : 2); i++)
        for (int64_t b = 0; b < all[i]->blocks; b++)
            frnn_kernels()->KERNELS_OF.pack(all[i]->transposed, all[i]->K, all[i]->N, all[i]->weights + b * all[i]->N * all[i]->K,
                                            all[i]->transposed ? all[i]->K : all[i]->N,
                                            (REAL *)all[i]->packed + b * FN(vectors)(all[i]->N) * all[i]->stride,
                                            all[i]->stride);
}
