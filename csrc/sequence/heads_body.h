/* A cell whose U is block-diagonal, for one dtype: heads of H/N units, each of which sees its own part of h_{t-1} only.
 * Included before forward_body.h and backward_body.h, which call this where there are several heads.
 *
 * Arrays are those of a cell without heads: a head's units are neighbours in every block. Only where a head is not a
 * whole number of FRNN_UNITS, vectors of units begin anew with each head (`frnn_span`): in da, in what is gathered
 * beside it, and in the cell's kernels, which then run for one head at a time. So a unit always has the same vector.
 */

/* The head's columns that are in `all`. */
static inline frnn_range FN(of_head)(frnn_range all, int64_t size, int64_t j) {
    return (frnn_range){FRNN_MAX(all.first, j * size) - j * size, FRNN_MIN(all.end, (j + 1) * size) - j * size};
}

/* C's units += h U^T of all gates, for the units of every head that are in `units`; h (rows, H), every h_row values. */
static void FN(recur_heads)(const FN(factor) *U, int64_t rows, const REAL *h, int64_t h_row, int gates,
                            frnn_range units, REAL *C, int64_t ldc, int64_t plane, int descending, char *scratch) {
    const int64_t size = U->N;
    for (int64_t i = 0; i < U->heads; i++) {
        const int64_t j = descending ? U->heads - 1 - i : i;
        const frnn_range n = FN(of_head)(units, size, j);
        if (n.first >= n.end) continue;
        const FN(factor) head = FN(head_of)(U, j);
        FN(multiply)(&head, rows, FN(row_major)(h + j * size, h_row), 0, 1, 0, gates, n.first, n.end, 1, C + j * size,
                     ldc, plane, descending, scratch);
    }
}

/* C's outputs = da U, one gate after the other. Head j of gate k is in da from column k*plane + j*head_plane on. */
static void FN(return_through_heads)(const FN(factor) *U, int64_t rows, FN(matrix) da, int64_t plane,
                                     int64_t head_plane, frnn_range outputs, REAL *C, int64_t ldc, int descending) {
    const int64_t size = U->N;
    for (int64_t i = 0; i < U->heads; i++) {
        const int64_t j = descending ? U->heads - 1 - i : i;
        const frnn_range n = FN(of_head)(outputs, size, j);
        if (n.first >= n.end) continue;
        const FN(factor) head = FN(head_of)(U, j);
        for (int k = 0; k < U->k_blocks; k++)
            FN(multiply)(&head, rows, FN(at)(da, 0, k * plane + j * head_plane), k, k + 1, 0, 1, n.first, n.end, k > 0,
                         C + j * size, ldc, size, descending, NULL);
    }
}

/* The cell's kernels for a row's units, whose vectors begin anew after every `span`. */
static inline void FN(forward_row)(const CELL_KERNELS *kernels, int64_t span, FN(frnn_forward_row) row) {
    const int64_t units = row.n;
    for (int64_t u = 0; u < units; u += span) {
        row.n = FRNN_MIN(span, units - u);
        kernels->forward(&row);
        row.a += span, row.bias += span, row.h_prev += span, row.c_prev += span, row.h += span, row.c += span;
        if (row.y) row.y += span;
        if (row.gates) row.gates += span, row.cells += span;
    }
}

/* `da_span` values of da lie between the first vectors of two spans. */
static inline void FN(backward_row)(const CELL_KERNELS *kernels, int64_t span, int64_t da_span,
                                    FN(frnn_backward_row) row) {
    const int64_t units = row.n;
    for (int64_t u = 0; u < units; u += span) {
        row.n = FRNN_MIN(span, units - u);
        kernels->backward(&row);
        row.gates += span, row.c += span, row.c_prev += span, row.dh += span, row.dc += span, row.da += da_span;
        if (row.dy) row.dy += span;
    }
}
