/* GRU: gates r, z = sigmoid(a), a = W x_t + U h_{t-1} + b; the candidate n depends on where the reset gate acts:
 *
 *     after:   n = tanh(W_n x_t + b_in + r*(U_n h_{t-1} + b_hn))
 *     before:  n = tanh(W_n x_t + b_in + U_n (r*h_{t-1}) + b_hn)
 *
 *     h_t = (1 - keep)*n + keep*h_{t-1},  keep = z, or 1 - z with `replace`.
 */

static ALWAYS_INLINE vec FN(blend)(const forward_row *row, vec z, vec n, vec h_prev) {
    return row->replace ? z * n + (1 - z) * h_prev : (1 - z) * n + z * h_prev;
}

/* What both share: the gradients of a_z and a_n, and in dh the part that reaches h_{t-1} around the matrices. */
static ALWAYS_INLINE vec FN(gru_blend_backward)(const backward_row *row, int64_t u, int64_t lanes, vec *da_z) {
    const int64_t H = row->H;
    const vec z = load(row->gates + H + u, lanes), n = load(row->gates + 2 * H + u, lanes);
    const vec h_prev = load(row->h_prev + u, lanes), dh = load_dh();
    const vec keep = row->replace ? 1 - z : z;
    const vec dkeep = dh * (h_prev - dropped(n)); /* h = (1 - keep)*n + keep*h_prev */
    const vec dz = row->replace ? -dkeep : dkeep;
    *da_z = through_sigmoid(dz * z * (1 - z), z); /* z = sigmoid(a_z) */
    store(row->dh + u, dh * keep, lanes);
    return through_tanh(dropped(dh * (1 - keep)) * (1 - n * n), n); /* n = tanh(a_n) */
}

/* ---- Reset after the product: U_n h + b_hn is a block of its own, hn, before that of W_n x + b_in ---- */

static ALWAYS_INLINE void FN(gru_after_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const int64_t H = row->H;
    const vec r = vsigmoid(clipped(preactivation(0))), z = vsigmoid(clipped(preactivation(1)));
    const vec hn = preactivation(2), n = vtanh(clipped(preactivation(3) + r * hn));
    store_h(FN(blend)(row, z, dropped(n), load(row->h_prev + u, lanes)));
    if (row->gates) {
        store(row->gates + u, r, lanes);
        store(row->gates + H + u, z, lanes);
        store(row->gates + 2 * H + u, n, lanes);
        store(row->gates + 3 * H + u, hn, lanes);
    }
}
KERNEL(gru_after_forward, forward_row)

static ALWAYS_INLINE void FN(gru_after_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const int64_t H = row->H;
    const vec r = load(row->gates + u, lanes), hn = load(row->gates + 3 * H + u, lanes);
    vec da_z;
    const vec da_n = FN(gru_blend_backward)(row, u, lanes, &da_z);
    store_da(0, through_sigmoid(da_n * hn * r * (1 - r), r)); /* a_n = x_n + r*hn, r = sigmoid(a_r) */
    store_da(1, da_z);
    store_da(2, da_n * r);
    store_da(3, da_n);
}
KERNEL(gru_after_backward, backward_row)

static const FN(frnn_cell_kernels) FN(gru_after) = {
    .description = {.name = "gru_after",
                    .gates = 3,
                    .apart = 1,
                    .recorded = 4, /* r, z, n, hn */
                    .around = 1,
                    .reads_h_prev = 1,
                    .gate_time = 25},
    .forward = FN(gru_after_forward),
    .backward = FN(gru_after_backward),
};

/* ---- Reset before the product: a step has two halves, for U_n needs all of r*h_{t-1} ---- */

static ALWAYS_INLINE void FN(gru_before_reset_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const vec r = vsigmoid(clipped(preactivation(0))), z = vsigmoid(clipped(preactivation(1)));
    store(row->early + u, r, lanes);
    store(row->early + row->H + u, z, lanes);
    store(row->rh + u, r * load(row->h_prev + u, lanes), lanes);
}
KERNEL(gru_before_reset_forward, forward_row)

static ALWAYS_INLINE void FN(gru_before_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const vec z = load(row->early + row->H + u, lanes), n = vtanh(clipped(preactivation(2)));
    store_h(FN(blend)(row, z, dropped(n), load(row->h_prev + u, lanes)));
    if (row->gates) store(row->gates + 2 * row->H + u, n, lanes);
}
KERNEL(gru_before_forward, forward_row)

static ALWAYS_INLINE void FN(gru_before_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    vec da_z;
    const vec da_n = FN(gru_blend_backward)(row, u, lanes, &da_z);
    store_da(1, da_z);
    store_da(2, da_n);
}
KERNEL(gru_before_backward, backward_row)

static ALWAYS_INLINE void FN(gru_before_reset_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const vec r = load(row->gates + u, lanes), h_prev = load(row->h_prev + u, lanes), drh = load(row->drh + u, lanes);
    store_da(0, through_sigmoid(drh * h_prev * r * (1 - r), r)); /* a_n = x_n + U_n (r*h_prev), r = sigmoid(a_r) */
    store(row->dh + u, load(row->dh + u, lanes) + drh * r, lanes);
}
KERNEL(gru_before_reset_backward, backward_row)

static const FN(frnn_cell_kernels) FN(gru_before) = {
    .description = {.name = "gru_before",
                    .gates = 3,
                    .reset = 1,
                    .recorded = 3, /* r, z, n */
                    .around = 1,
                    .reads_h_prev = 1,
                    .gate_time = 30},
    .forward = FN(gru_before_forward),
    .backward = FN(gru_before_backward),
    .reset_forward = FN(gru_before_reset_forward),
    .reset_backward = FN(gru_before_reset_backward),
};
