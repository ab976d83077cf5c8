/* The right-hand factor of a product, A R, for one dtype: weights as BLAS takes them, or packed for our own kernels.
 *
 * R (rows, columns) is the weights, or their transpose. Either its rows or its columns are in blocks, one for each
 * gate. Packed, a block of columns is a whole number of vectors. So is a block of rows, if there are several: there A,
 * which has one column for each row of R, is packed, too, and its blocks are whole vectors. What the weights do not
 * fill is zeros. Between vectors of columns there is room for one more row, so that they do not displace each other
 * from the cache.
 */

typedef struct {
    int64_t K, k_blocks; /* rows: blocks of K */
    int64_t N, blocks;   /* columns: blocks of N */
    const REAL *weights; /* (blocks*N, K) if transposed, else (k_blocks*K, N); narrow ones are of their own type */
    int transposed;
    const float *scales; /* of the weights' rows, if they are int8 */
    const char *packed;  /* as `packing` has it; null: BLAS multiplies */
    int64_t column;      /* of packed, bytes of a column */
    int64_t stride;      /* of packed, from vector to vector as products take it */
    const PACKING *packing;
    int64_t pitch; /* rows of the weights from block to block */
    int64_t heads; /* so many such factors, one after the other in `packed`: heads_body.h */
} FN(factor);

/* The distance between blocks of N columns in an array that products write: a whole number of vectors when packed. */
static inline int64_t FN(plane)(const frnn_cell *cell) { return cell->packed ? FN(filled)(cell->H) : cell->H; }

/* The distance between blocks of rows. */
static inline int64_t FN(block_rows)(const FN(factor) *f) {
    return f->packed && f->k_blocks > 1 ? FN(filled)(f->K) : f->K;
}

/* A product with packed weights, of which rows, A and how the columns are gone through are set already. */
static ALWAYS_INLINE void FN(multiply_packed)(const FN(factor) *f, product p, int k0, int k1, int b0, int b1,
                                              int64_t n0, int64_t n1, REAL *C, int64_t plane) {
    const int64_t lanes = FN(lanes)(), N = FN(filled)(f->N), block = FN(block_rows)(f);
    const char *R = f->packed + k0 * block * lanes * f->packing->bytes;
    p.K = (k1 - k0 - 1) * block + f->K, p.stride = f->stride, p.c_vector = lanes;
    if (n0 == 0 && n1 == f->N && plane == N && b1 - b0 > 1 && f->heads == 1) { /* all blocks at once */
        p.R = R + b0 * N * f->column, p.columns = (b1 - b0) * plane, p.C = C + b0 * plane;
        f->packing->multiply(&p);
        return;
    }
    for (int i = b0; i < b1; i++) {
        const int b = p.descending ? b0 + b1 - 1 - i : i;
        p.R = R + (b * N + n0) * f->column, p.columns = n1 - n0, p.C = C + b * plane + n0;
        f->packing->multiply(&p);
    }
}

/* C[column blocks b0..b1-1, their columns n0..n1-1] = beta*C + A R[row blocks k0..k1-1]; A (rows, those blocks), C's
 * blocks lie `plane` apart. If every other call is `descending`, it begins with the part of R that the call before read
 * last, and that is still in the cache where R as a whole does not fit. Narrow weights need `scratch`, a member's own,
 * for FRNN_ROWS_CONVERTED rows or all. */
static void FN(multiply)(const FN(factor) *f, int64_t rows, FN(matrix) A, int k0, int k1, int b0, int b1, int64_t n0,
                         int64_t n1, int beta, REAL *C, int64_t ldc, int64_t plane, int descending, char *scratch) {
    if (rows == 0 || n0 == n1) return;
    if (f->packed && f->packing->convert) {
        const int64_t row = FRNN_ROW_BYTES(f->packing, f->K);
        for (int64_t m = 0; m < rows; m += FRNN_ROWS_CONVERTED) {
            const int64_t some = FRNN_MIN(FRNN_ROWS_CONVERTED, rows - m);
            for (int64_t i = 0; i < some; i++) f->packing->convert(f->K, A.data + (m + i) * A.row, scratch + i * row);
            const product p = {.rows = some,
                               .A = (const REAL *)(const void *)scratch,
                               .a_row = row,
                               .beta = beta,
                               .ldc = ldc,
                               .descending = descending};
            FN(multiply_packed)(f, p, k0, k1, b0, b1, n0, n1, C + m * ldc, plane);
        }
    } else if (f->packed) {
        const product p = {.rows = rows,
                           .A = A.data,
                           .a_row = A.row,
                           .a_vector = A.vector,
                           .beta = beta,
                           .ldc = ldc,
                           .descending = descending};
        FN(multiply_packed)(f, p, k0, k1, b0, b1, n0, n1, C, plane);
    } else if (!f->transposed) {
        GEMM(0, 0, rows, n1 - n0, (k1 - k0) * f->K, A.data, A.row, f->weights + k0 * f->pitch * f->N + n0, f->N, beta,
             C + n0, ldc);
    } else if (n0 == 0 && n1 == f->N && plane == f->N && f->heads == 1) {
        GEMM(0, 1, rows, (b1 - b0) * f->N, f->K, A.data, A.row, f->weights + b0 * f->N * f->K, f->K, beta,
             C + b0 * plane, ldc);
    } else {
        for (int b = b0; b < b1; b++)
            GEMM(0, 1, rows, n1 - n0, f->K, A.data, A.row, f->weights + (b * f->pitch + n0) * f->K, f->K, beta,
                 C + b * plane + n0, ldc);
    }
}

/* In bytes, so many that what follows is aligned; of one head, if there are several. */
static int64_t FN(head_size)(const FN(factor) *f) { return (f->blocks * FN(filled)(f->N) * f->column + 63) / 64 * 64; }
static int64_t FN(packed_size)(const FN(factor) *f) { return f->heads * FN(head_size)(f); }

/* The factor of head j. */
static inline FN(factor) FN(head_of)(const FN(factor) *f, int64_t j) {
    FN(factor) head = *f;
    const int64_t first = j * (f->transposed ? f->N : f->K); /* row of the weights */
    const char *weights = (const char *)f->weights + first * (f->transposed ? f->K : f->N) * f->packing->bytes;
    head.weights = (const REAL *)(const void *)weights;
    if (f->scales) head.scales += first;
    if (f->packed) head.packed += j * FN(head_size)(f);
    return head;
}

/* The factors of a pass: of its input, its state and its projection. One without weights is all zeros. */
typedef struct {
    FN(factor) input, state, projection;
} FN(factors);

/* What is left of a factor, whose shape is set; and the address behind it in `packed`. */
static const char *FN(factor_start)(FN(factor) *f, const frnn_cell *cell, const void *weights, const float *scales,
                                    int64_t heads, const char *packed) {
    const PACKING *packing = &frnn_kernels()->KERNELS_OF.packings[cell->storage];
    f->weights = weights, f->scales = scales, f->heads = heads;
    f->packing = packing, f->packed = packed;
    const int64_t K = f->k_blocks * FN(block_rows)(f);
    f->column = FN(packed_column)(packing, K);
    f->stride = (packing->convert ? f->column : FN(packed_rows)(packing, K) + 1) * FN(lanes)();
    return packed ? packed + FN(packed_size)(f) : NULL;
}

/* Fill in what is all zeros. */
static void FN(factors_start)(FN(factors) *f, const frnn_cell *cell, frnn_pass pass) {
    const int64_t I = cell->I, H = cell->H, O = cell->O, G = frnn_describe(cell->kind)->gates;
    const int64_t heads = frnn_heads(cell), head = H / heads, span = frnn_span(cell);
    FN(factor) *input = &f->input, *state = &f->state, *projection = &f->projection;
    const int forwards = pass == FRNN_FORWARD; /* x W^T, h U^T, m W_hr^T; else da W, da U, dh W_hr */
    input->transposed = state->transposed = projection->transposed = forwards;
    input->K = forwards ? I : span, input->k_blocks = forwards ? 1 : H / span * G;
    input->N = forwards ? H : I, input->blocks = forwards ? G : 1, input->pitch = forwards ? H : span;
    const char *packed = FN(factor_start)(input, cell, cell->w_ih, cell->s_ih, 1, cell->packed);
    if (cell->w_hh) {
        state->K = forwards ? O / heads : head, state->k_blocks = forwards ? 1 : G;
        state->N = forwards ? head : O / heads, state->blocks = forwards ? G : 1, state->pitch = H;
        packed = FN(factor_start)(state, cell, cell->w_hh, cell->s_hh, heads, packed);
    }
    if (cell->w_hr) {
        projection->K = forwards ? H : O, projection->N = forwards ? O : H, projection->pitch = O;
        projection->k_blocks = projection->blocks = 1;
        FN(factor_start)(projection, cell, cell->w_hr, cell->s_hr, 1, packed);
    }
}

/* The factors as they will be in `packed`. */
static FN(factors) FN(factors_in)(const frnn_cell *cell, frnn_pass pass, void *packed) {
    frnn_cell target = *cell;
    target.packed = packed;
    FN(factors) f = {0};
    FN(factors_start)(&f, &target, pass);
    return f;
}

int64_t FN(frnn_pack_bytes)(const frnn_cell *cell, frnn_pass pass) {
    const FN(factors) f = FN(factors_in)(cell, pass, (void *)cell); /* any address but null */
    return FN(packed_size)(&f.input) + FN(packed_size)(&f.state) + FN(packed_size)(&f.projection);
}

/* Packs some columns of every block. */
static void FN(pack_factor)(const FN(factor) *g, frnn_range mine) {
    const int64_t lanes = FN(lanes)(), N = FN(filled)(g->N), block = FN(block_rows)(g);
    const int64_t row = lanes * g->packing->bytes;
    for (int64_t b = 0; b < g->blocks; b++)
        for (int64_t n = mine.first; n < mine.end; n += lanes) {
            const int64_t columns = FRNN_MIN(lanes, g->N - n);
            char *to = (char *)g->packed + (b * N + n) * g->column;
            const int64_t first = b * g->pitch + n;
            if (g->packing->pack_narrow) {
                const char *weights = (const char *)g->weights + first * g->K * g->packing->bytes;
                g->packing->pack_narrow(g->K, columns, weights, g->scales ? g->scales + first : NULL, to);
                continue;
            }
            if (g->transposed) {
                g->packing->pack(1, g->K, columns, g->weights + first * g->K, g->K, (REAL *)to, g->stride);
                continue;
            }
            for (int64_t k = 0; k < g->k_blocks; k++, to += block * row) {
                g->packing->pack(0, g->K, columns, g->weights + k * g->pitch * g->N + n, g->N, (REAL *)to, g->stride);
                memset(to + g->K * row, 0, (size_t)((block - g->K) * row));
            }
        }
}

/* Each member packs the columns of every block that it will read if members share the units (frnn_part_of), so that
 * their memory is its own on machines where memory belongs to some of the cores. */
static void FN(pack_work)(void *context, const frnn_team *team) {
    const FN(factors) *f = context;
    const FN(factor) *all[] = {&f->input, &f->state, &f->projection};
    for (int i = 0; i < 3; i++) {
        if (!all[i]->weights) continue;
        for (int64_t j = 0; j < all[i]->heads; j++) {
            const FN(factor) g = FN(head_of)(all[i], j);
            FN(pack_factor)(&g, frnn_share(g.N, FRNN_UNITS, team->index, team->size));
        }
    }
}

void FN(frnn_pack)(const frnn_cell *cell, frnn_pass pass, int threads, void *packed) {
    FN(factors) f = FN(factors_in)(cell, pass, packed);
    const int64_t values = frnn_describe(cell->kind)->gates * cell->H * (cell->I + cell->O);
    frnn_team_run(values < PACK_ALONE ? 1 : threads, values / 2, FN(pack_work), &f);
}
