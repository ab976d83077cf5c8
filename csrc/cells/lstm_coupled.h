/* LSTM with coupled gates (Greff et al. 2017; ONNX's input_forget): what is not written is kept, f = 1 - i. Gates i, g,
 * o with i, o = sigmoid(a) and g = tanh(a), a = W x_t + U h_{t-1} + b;
 *
 *     c_t = (1 - i)*c_{t-1} + i*g,  h_t = o*tanh(c_t).
 *
 * Peepholes add p_i*c_{t-1} to a_i and p_o*c_t to a_o.
 *
 * If c is normalised before it is shown, h_t is o here: norm_body.h makes the rest of it, and begins backwards.
 */

static ALWAYS_INLINE void FN(lstm_coupled_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const int64_t H = row->H;
    const vec c_prev = load(row->c_prev + u, lanes);
    vec a_i = preactivation(0), a_o = preactivation(2);
    if (row->peephole) a_i += load(row->peephole + u, lanes) * c_prev;
    const vec i = vsigmoid(clipped(a_i)), g = vtanh(clipped(preactivation(1)));
    const vec c = (1 - i) * c_prev + i * dropped(g);
    if (row->peephole) a_o += load(row->peephole + H + u, lanes) * c;
    const vec o = vsigmoid(clipped(a_o));
    store(row->c + u, c, lanes);
    store_h(row->shows_o ? o : o * vtanh(clipped(c)));
    if (row->gates) {
        store(row->gates + u, i, lanes);
        store(row->gates + H + u, g, lanes);
        store(row->gates + 2 * H + u, o, lanes);
        store(row->cells + u, c, lanes);
    }
}
KERNEL(lstm_coupled_forward, forward_row)

static ALWAYS_INLINE void FN(lstm_coupled_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const int64_t H = row->H;
    const vec i = load(row->gates + u, lanes), g = load(row->gates + H + u, lanes);
    const vec o = load(row->gates + 2 * H + u, lanes);
    const vec c_prev = load(row->c_prev + u, lanes), c = load(row->c + u, lanes), dh = load_dh();
    const vec tanh_c = row->shows_o ? splat(1) : vtanh(clipped(c));
    const vec da_o = through_sigmoid(dh * tanh_c * o * (1 - o), o); /* h = o*tanh(c), o = sigmoid(a_o) */
    vec dc = load(row->dc + u, lanes) + through_clip(dh * o * (1 - tanh_c * tanh_c), c); /* h = o*tanh(c) */
    if (row->peephole) dc += da_o * load(row->peephole + H + u, lanes);                  /* a_o += p_o*c */
    const vec da_i = through_sigmoid(dc * (dropped(g) - c_prev) * i * (1 - i), i);       /* c = (1 - i)*c_prev + i*g */
    const vec da_g = through_tanh(dropped(dc * i) * (1 - g * g), g);
    vec dc_prev = dc * (1 - i);
    if (row->peephole) dc_prev += da_i * load(row->peephole + u, lanes); /* a_i += p_i*c_prev */
    store(row->dc + u, dc_prev, lanes);
    store_da(0, da_i);
    store_da(1, da_g);
    store_da(2, da_o);
}
KERNEL(lstm_coupled_backward, backward_row)

static const FN(frnn_cell_kernels) FN(lstm_coupled) = {
    .description = {.name = "lstm_coupled",
                    .gates = 3,
                    .recorded = 3, /* i, g, o */
                    .has_c = 1,
                    .output_gate = 2,
                    .peepholes = 2,
                    .peephole = {{.gate = 0}, {.gate = 2, .sees_new = 1}},
                    .gate_time = 35},
    .forward = FN(lstm_coupled_forward),
    .backward = FN(lstm_coupled_backward),
};
