/* sLSTM (Beck et al. 2024): gates i, f, z, o with z = tanh(a), o = sigmoid(a), a = W x_t + U h_{t-1} + b, and an input
 * gate e^a_i that is no sigmoid. The state is c, the normaliser n, and m: what c and n are divided by is e^m.
 *
 *     l = log(sigmoid(a_f)) + m_{t-1}, or -infinity where n_{t-1} = 0,  m_t = max(a_i, l),
 *     i = e^(a_i - m_t),  f = e^(l - m_t),
 *     c_t = f*c_{t-1} + i*z,  n_t = f*n_{t-1} + i,  h_t = o*c_t/n_t.
 *
 * One of i and f is 1, so one exponential gives both. A tape also has k = sigmoid(-a_f), the slope of log(sigmoid).
 */

static ALWAYS_INLINE void FN(slstm_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const int64_t H = row->H;
    const vec c_prev = load(row->c_prev + u, lanes), n_prev = load(row->c_prev + H + u, lanes);
    const vec m_prev = load(row->c_prev + 2 * H + u, lanes), one = splat(1), none = splat(-(REAL)INFINITY);
    const vec a_i = preactivation(0), a_f = preactivation(1);
    vec k;
    const vec l = where_less(splat(0), vabs(n_prev), vlog_sigmoid(a_f, &k) + m_prev, none);
    const vec d = a_i - l, smaller = vexp(-vabs(d));
    const vec i = where_less(splat(0), d, one, smaller), f = where_less(d, splat(0), one, smaller);
    const vec z = vtanh(preactivation(2)), o = vsigmoid(preactivation(3));
    const vec c = f * c_prev + i * z, n = f * n_prev + i, m = where_less(splat(0), d, a_i, l);
    store(row->c + u, c, lanes);
    store(row->c + H + u, n, lanes);
    store(row->c + 2 * H + u, m, lanes);
    store_h(o * c / n);
    if (row->gates) {
        store(row->gates + u, i, lanes);
        store(row->gates + H + u, f, lanes);
        store(row->gates + 2 * H + u, z, lanes);
        store(row->gates + 3 * H + u, o, lanes);
        store(row->gates + 4 * H + u, k, lanes);
        store(row->cells + u, c, lanes);
        store(row->cells + H + u, n, lanes);
        store(row->cells + 2 * H + u, m, lanes);
    }
}
KERNEL(slstm_forward, forward_row)

/* c and n alone decide h, and a change of m scales both. So where the loss sees no m_t, dm is what c and n pass on, to
 * the bit: the same multiply_add computes it here and in the step after. What is left of dm is zero then. */
static ALWAYS_INLINE void FN(slstm_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const int64_t H = row->H;
    const vec i = load(row->gates + u, lanes), f = load(row->gates + H + u, lanes);
    const vec z = load(row->gates + 2 * H + u, lanes), o = load(row->gates + 3 * H + u, lanes);
    const vec k = load(row->gates + 4 * H + u, lanes);
    const vec c = load(row->c + u, lanes), n = load(row->c + H + u, lanes);
    const vec c_prev = load(row->c_prev + u, lanes), n_prev = load(row->c_prev + H + u, lanes);
    vec dc = load(row->dc + u, lanes), dn = load(row->dc + H + u, lanes);
    const vec dm = load(row->dc + 2 * H + u, lanes) - multiply_add(c, dc, n * dn); /* c, n = .../e^m */
    /* Lanes beyond the row's units have n = 0, and have to come out as zeros. */
    const vec zero = splat(0), one = splat(1), inverse = one / where_less(zero, vabs(n), n, one);
    const vec dh = load_dh(), q = c * inverse;
    const vec da_o = dh * q * o * (1 - o); /* h = o*c/n, o = sigmoid(a_o) */
    const vec dq = dh * o * inverse;
    dc += dq, dn -= dq * q;
    const vec dc_prev = dc * f, dn_prev = dn * f; /* c = f*c_prev + i*z, n = f*n_prev + i */
    const vec da_z = dc * i * (1 - z * z);
    const vec da_i = i * (dc * z + dn) + where_less(i, one, zero, dm); /* m = a_i where i is 1 */
    const vec dl = multiply_add(c_prev, dc_prev, n_prev * dn_prev) + where_less(i, one, dm, zero);
    store(row->dc + u, dc_prev, lanes);
    store(row->dc + H + u, dn_prev, lanes);
    store(row->dc + 2 * H + u, dl, lanes); /* l = log(sigmoid(a_f)) + m_prev */
    store_da(0, da_i);
    store_da(1, dl * k);
    store_da(2, da_z);
    store_da(3, da_o);
}
KERNEL(slstm_backward, backward_row)

static const FN(frnn_cell_kernels) FN(slstm) = {
    .description = {.name = "slstm",
                    .gates = 4,
                    .recorded = 5, /* i, f, z, o, k */
                    .has_c = 3,    /* c, n, m */
                    .gate_time = 50},
    .forward = FN(slstm_forward),
    .backward = FN(slstm_backward),
};
