/* LSTM: gates i, f, g, o with i, f, o = sigmoid(a) and g = tanh(a), a = W x_t + U h_{t-1} + b;
 *
 *     c_t = f*c_{t-1} + i*g,  h_t = o*tanh(c_t).
 *
 * Peepholes add p_i*c_{t-1} to a_i, p_f*c_{t-1} to a_f and p_o*c_t to a_o.
 *
 * If c is normalised before it is shown, h_t is o here: norm_body.h makes the rest of it, and begins backwards.
 */

static ALWAYS_INLINE void FN(lstm_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const int64_t H = row->H;
    const vec c_prev = load(row->c_prev + u, lanes);
    vec a_i = preactivation(0), a_f = preactivation(1), a_o = preactivation(3);
    if (row->peephole) {
        a_i += load(row->peephole + u, lanes) * c_prev;
        a_f += load(row->peephole + H + u, lanes) * c_prev;
    }
    const vec i = vsigmoid(clipped(a_i)), f = vsigmoid(clipped(a_f)), g = vtanh(clipped(preactivation(2)));
    const vec c = f * c_prev + i * dropped(g);
    if (row->peephole) a_o += load(row->peephole + 2 * H + u, lanes) * c;
    const vec o = vsigmoid(clipped(a_o));
    store(row->c + u, c, lanes);
    store_h(row->shows_o ? o : o * vtanh(clipped(c)));
    if (row->gates) {
        store(row->gates + u, i, lanes);
        store(row->gates + H + u, f, lanes);
        store(row->gates + 2 * H + u, g, lanes);
        store(row->gates + 3 * H + u, o, lanes);
        store(row->cells + u, c, lanes);
    }
}
KERNEL(lstm_forward, forward_row)

static ALWAYS_INLINE void FN(lstm_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const int64_t H = row->H;
    const vec i = load(row->gates + u, lanes), f = load(row->gates + H + u, lanes);
    const vec g = load(row->gates + 2 * H + u, lanes), o = load(row->gates + 3 * H + u, lanes);
    const vec c_prev = load(row->c_prev + u, lanes), c = load(row->c + u, lanes), dh = load_dh();
    const vec tanh_c = row->shows_o ? splat(1) : vtanh(clipped(c));
    const vec da_o = through_sigmoid(dh * tanh_c * o * (1 - o), o); /* h = o*tanh(c), o = sigmoid(a_o) */
    vec dc = load(row->dc + u, lanes) + through_clip(dh * o * (1 - tanh_c * tanh_c), c); /* h = o*tanh(c) */
    if (row->peephole) dc += da_o * load(row->peephole + 2 * H + u, lanes);              /* a_o += p_o*c */
    const vec da_i = through_sigmoid(dc * dropped(g) * i * (1 - i), i);                  /* c = f*c_prev + i*g */
    const vec da_f = through_sigmoid(dc * c_prev * f * (1 - f), f);
    const vec da_g = through_tanh(dropped(dc * i) * (1 - g * g), g);
    vec dc_prev = dc * f;
    if (row->peephole) /* a_i += p_i*c_prev, a_f += p_f*c_prev */
        dc_prev += da_i * load(row->peephole + u, lanes) + da_f * load(row->peephole + H + u, lanes);
    store(row->dc + u, dc_prev, lanes);
    store_da(0, da_i);
    store_da(1, da_f);
    store_da(2, da_g);
    store_da(3, da_o);
}
KERNEL(lstm_backward, backward_row)

static const FN(frnn_cell_kernels) FN(lstm) = {
    .description = {.name = "lstm",
                    .gates = 4,
                    .recorded = 4, /* i, f, g, o */
                    .has_c = 1,
                    .output_gate = 3,
                    .peepholes = 3,
                    .peephole = {{.gate = 0}, {.gate = 1}, {.gate = 3, .sees_new = 1}},
                    .gate_time = 40},
    .forward = FN(lstm_forward),
    .backward = FN(lstm_backward),
};
