/* minLSTM (Feng et al. 2024, "Were RNNs all we needed?"): gates do not see the state, and the two of them share the new
 * state out between the old one and the candidate. i, f = sigmoid(a), n = g(a_n) as in min_gru.h, a = W x_t + b;
 *
 *     h_t = f'*h_{t-1} + i'*n,  f' = f/(f + i),  i' = i/(f + i).
 *
 * In the gates an a below -80 counts as -80, so that f + i has a reciprocal.
 */

static ALWAYS_INLINE vec FN(min_lstm_gate)(vec a) {
    const vec least = splat(-80);
    return vsigmoid(where_less(a, least, least, a));
}

static ALWAYS_INLINE void FN(min_lstm_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const vec i = FN(min_lstm_gate)(preactivation(0)), f = FN(min_lstm_gate)(preactivation(1));
    const vec a_n = preactivation(2), n = row->linear ? a_n : FN(positive)(a_n), sum = f + i;
    store_h(multiply_add(quotient(f, sum), load(row->h_prev + u, lanes), quotient(i, sum) * n));
    if (row->gates) {
        store(row->gates + u, i, lanes);
        store(row->gates + row->H + u, f, lanes);
        store(row->gates + 2 * row->H + u, n, lanes);
    }
}
KERNEL(min_lstm_forward, forward_row)

static ALWAYS_INLINE void FN(min_lstm_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const int64_t H = row->H;
    const vec i = load(row->gates + u, lanes), f = load(row->gates + H + u, lanes);
    const vec sum = where_less(splat(0), f + i, f + i, splat(1)); /* beyond the row's end they are 0 */
    const vec n = load(row->gates + 2 * H + u, lanes), h_prev = load(row->h_prev + u, lanes), dh = load_dh();
    const vec kept = quotient(f, sum), written = quotient(i, sum), dn = dh * written; /* h = kept*h_prev + written*n */
    const vec dratio = dn * (h_prev - n) * kept; /* of ln(f/i), as kept = 1/(1 + i/f) */
    store(row->dh + u, dh * kept, lanes);
    store_da(0, -dratio * (1 - i)); /* i = sigmoid(a_i) */
    store_da(1, dratio * (1 - f));
    store_da(2, row->linear ? dn : dn * FN(positive_slope)(n));
}
KERNEL(min_lstm_backward, backward_row)

static const FN(frnn_cell_kernels) FN(min_lstm) = {
    .description = {.name = "min_lstm",
                    .gates = 3,
                    .unconnected = 1,
                    .recorded = 3, /* i, f, n */
                    .around = 1,
                    .reads_h_prev = 1,
                    .gate_time = 35},
    .forward = FN(min_lstm_forward),
    .backward = FN(min_lstm_backward),
};
