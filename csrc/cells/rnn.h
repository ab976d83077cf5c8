/* RNN: h_t = act(a), a = W x_t + U h_{t-1} + b, act = tanh or relu. */

/* ---- tanh ---- */

static ALWAYS_INLINE void FN(rnn_tanh_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    store_h(vtanh(clipped(preactivation(0))));
}
KERNEL(rnn_tanh_forward, forward_row)

static ALWAYS_INLINE void FN(rnn_tanh_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const vec h = load(row->h + u, lanes);
    store_da(0, through_tanh(load_dh() * (1 - h * h), h)); /* h = tanh(a) */
}
KERNEL(rnn_tanh_backward, backward_row)

static const FN(frnn_cell_kernels) FN(rnn_tanh) = {
    .description = {.name = "rnn_tanh", .gates = 1, .reads_h = 1, .gate_time = 10},
    .forward = FN(rnn_tanh_forward),
    .backward = FN(rnn_tanh_backward),
};

/* ---- relu ---- */

static ALWAYS_INLINE void FN(rnn_relu_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const vec a = clipped(preactivation(0));
    store_h(where_less(a, splat(0), splat(0), a)); /* NaN is not less than 0 and stays */
}
KERNEL(rnn_relu_forward, forward_row)

static ALWAYS_INLINE void FN(rnn_relu_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const vec h = load(row->h + u, lanes);
    store_da(0, through_relu(where_less(splat(0), h, load_dh(), splat(0)), h)); /* h = max(a, 0) */
}
KERNEL(rnn_relu_backward, backward_row)

static const FN(frnn_cell_kernels) FN(rnn_relu) = {
    .description = {.name = "rnn_relu", .gates = 1, .reads_h = 1, .gate_time = 4},
    .forward = FN(rnn_relu_forward),
    .backward = FN(rnn_relu_backward),
};
