/* minGRU (Feng et al. 2024, "Were RNNs all we needed?"): gates do not see the state. z = sigmoid(a_z), a = W x_t + b;
 *
 *     n = g(a_n),  h_t = (1 - z)*h_{t-1} + z*n.
 *
 * g is the identity or, so that n is positive as the paper's form in logarithms wants it, a + 1/2 where a >= 0, else
 * sigmoid(a). minLSTM has the same candidate.
 */

static ALWAYS_INLINE vec FN(positive)(vec a) { return where_less(a, splat(0), vsigmoid(a), a + (REAL)0.5); }

/* Of n = g(a_n): g's derivative. */
static ALWAYS_INLINE vec FN(positive_slope)(vec n) {
    return where_less(n, splat((REAL)0.5), n * (1 - n), splat(1)); /* g(0) = 1/2 */
}

static ALWAYS_INLINE void FN(min_gru_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const vec z = vsigmoid(preactivation(0)), a_n = preactivation(1), n = row->linear ? a_n : FN(positive)(a_n);
    store_h(multiply_add(1 - z, load(row->h_prev + u, lanes), z * n));
    if (row->gates) {
        store(row->gates + u, z, lanes);
        store(row->gates + row->H + u, n, lanes);
    }
}
KERNEL(min_gru_forward, forward_row)

static ALWAYS_INLINE void FN(min_gru_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const vec z = load(row->gates + u, lanes), n = load(row->gates + row->H + u, lanes);
    const vec h_prev = load(row->h_prev + u, lanes), dh = load_dh(), dn = dh * z; /* h = (1 - z)*h_prev + z*n */
    store(row->dh + u, dh * (1 - z), lanes);
    store_da(0, dn * (n - h_prev) * (1 - z)); /* z = sigmoid(a_z) */
    store_da(1, row->linear ? dn : dn * FN(positive_slope)(n));
}
KERNEL(min_gru_backward, backward_row)

static const FN(frnn_cell_kernels) FN(min_gru) = {
    .description = {.name = "min_gru",
                    .gates = 2,
                    .unconnected = 1,
                    .recorded = 2, /* z, n */
                    .around = 1,
                    .reads_h_prev = 1,
                    .gate_time = 20},
    .forward = FN(min_gru_forward),
    .backward = FN(min_gru_backward),
};
