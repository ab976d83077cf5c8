/* The bodies of the gate kernels, for one dtype and instruction set. Included by kernels_isa.h only.
 *
 * Each kernel states its equations; a backward line differentiates the forward line named beside it. `u` counts units,
 * `lanes` is VL but for the last, partial vector.
 */
#include "../simd/vector.h"
#include "../simd/activations.h"

#define forward_row FN(frnn_forward_row)
#define backward_row FN(frnn_backward_row)

/* A kernel from its body for one vector: the loop sees constant lanes and compiles to plain loads and stores. */
#define KERNEL(name, row_type)                                                                                         \
    static void FN(name)(const row_type *row) {                                                                        \
        int64_t u = 0;                                                                                                 \
        for (; u + VL <= row->n; u += VL) FN(name##_vector)(row, u, VL);                                               \
        if (u < row->n) FN(name##_vector)(row, u, row->n - u);                                                         \
    }

/* W x + U h + b of gate block k */
static ALWAYS_INLINE vec FN(preactivation)(const forward_row *row, int k, int64_t u, int64_t lanes) {
    const int64_t at = k * row->plane + u;
    return load(row->a + at, lanes) + load(row->bias + at, lanes);
}
#define preactivation(k) FN(preactivation)(row, k, u, lanes)

static ALWAYS_INLINE void FN(store_h)(const forward_row *row, vec h, int64_t u, int64_t lanes) {
    store(row->h + u, h, lanes);
    if (row->y) store(row->y + u, h, lanes);
}
#define store_h(h) FN(store_h)(row, h, u, lanes)

/* dh_t: what came back through the state, plus the loss's own */
static ALWAYS_INLINE vec FN(load_dh)(const backward_row *row, int64_t u, int64_t lanes) {
    vec dh = load(row->dh + u, lanes);
    if (row->dy) dh += load(row->dy + u, lanes);
    return dh;
}
#define load_dh() FN(load_dh)(row, u, lanes)

/* Gradient of the pre-activations of gate block k. Packed, it is whole vectors, whose last lanes come out as zeros. */
static ALWAYS_INLINE void FN(store_da)(const backward_row *row, int k, vec da, int64_t u, int64_t lanes) {
    store(row->da + k * row->plane + u / VL * row->vector, da, row->vector > VL ? VL : lanes);
}
#define store_da(k, da) FN(store_da)(row, k, da, u, lanes)

/* ---- RNN: h_t = act(a) ---- */

static ALWAYS_INLINE void FN(rnn_tanh_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    store_h(vtanh(preactivation(0)));
}
KERNEL(rnn_tanh_forward, forward_row)

static ALWAYS_INLINE void FN(rnn_relu_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const vec a = preactivation(0);
    store_h(where_less(a, splat(0), splat(0), a)); /* NaN is not less than 0 and stays */
}
KERNEL(rnn_relu_forward, forward_row)

static ALWAYS_INLINE void FN(rnn_tanh_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const vec h = load(row->h + u, lanes);
    store_da(0, load_dh() * (1 - h * h)); /* h = tanh(a) */
}
KERNEL(rnn_tanh_backward, backward_row)

static ALWAYS_INLINE void FN(rnn_relu_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const vec h = load(row->h + u, lanes);
    store_da(0, where_less(splat(0), h, load_dh(), splat(0))); /* h = max(a, 0) */
}
KERNEL(rnn_relu_backward, backward_row)

/* ---- LSTM: c_t = f*c_{t-1} + i*g, h_t = o*tanh(c_t) ---- */

static ALWAYS_INLINE void FN(lstm_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const int64_t H = row->H;
    const vec c_prev = load(row->c_prev + u, lanes);
    vec a_i = preactivation(0), a_f = preactivation(1), a_o = preactivation(3);
    if (row->peephole) {
        a_i += load(row->peephole + u, lanes) * c_prev;
        a_f += load(row->peephole + H + u, lanes) * c_prev;
    }
    const vec i = vsigmoid(a_i), f = vsigmoid(a_f), g = vtanh(preactivation(2));
    const vec c = f * c_prev + i * g;
    if (row->peephole) a_o += load(row->peephole + 2 * H + u, lanes) * c;
    const vec o = vsigmoid(a_o);
    store(row->c + u, c, lanes);
    store_h(o * vtanh(c));
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
    const vec c_prev = load(row->c_prev + u, lanes), tanh_c = vtanh(load(row->c + u, lanes));
    const vec dh = load_dh();
    const vec da_o = dh * tanh_c * o * (1 - o);                                /* h = o*tanh(c), o = sigmoid(a_o) */
    vec dc = load(row->dc + u, lanes) + dh * o * (1 - tanh_c * tanh_c);        /* h = o*tanh(c) */
    if (row->peephole) dc += da_o * load(row->peephole + 2 * H + u, lanes);    /* a_o += p_o*c */
    const vec da_i = dc * g * i * (1 - i);                                     /* c = f*c_prev + i*g */
    const vec da_f = dc * c_prev * f * (1 - f);
    const vec da_g = dc * i * (1 - g * g);
    vec dc_prev = dc * f;
    if (row->peephole)                                                         /* a_i += p_i*c_prev, a_f likewise */
        dc_prev += da_i * load(row->peephole + u, lanes) + da_f * load(row->peephole + H + u, lanes);
    store(row->dc + u, dc_prev, lanes);
    store_da(0, da_i);
    store_da(1, da_f);
    store_da(2, da_g);
    store_da(3, da_o);
}
KERNEL(lstm_backward, backward_row)

/* ---- GRU: h_t = (1 - keep)*n + keep*h_{t-1}, keep = z, or 1 - z with `replace` ---- */

static ALWAYS_INLINE vec FN(blend)(const forward_row *row, vec z, vec n, vec h_prev) {
    return row->replace ? z * n + (1 - z) * h_prev : (1 - z) * n + z * h_prev;
}

static ALWAYS_INLINE void FN(gru_after_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const int64_t H = row->H;
    const vec r = vsigmoid(preactivation(0)), z = vsigmoid(preactivation(1)), hn = preactivation(2);
    const vec n = vtanh(preactivation(3) + r * hn);
    store_h(FN(blend)(row, z, n, load(row->h_prev + u, lanes)));
    if (row->gates) {
        store(row->gates + u, r, lanes);
        store(row->gates + H + u, z, lanes);
        store(row->gates + 2 * H + u, n, lanes);
        store(row->gates + 3 * H + u, hn, lanes);
    }
}
KERNEL(gru_after_forward, forward_row)

/* First half of a GRU that resets before: the gates, and r*h_prev for U_n to act on. */
static ALWAYS_INLINE void FN(gru_before_reset_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const vec r = vsigmoid(preactivation(0)), z = vsigmoid(preactivation(1));
    store(row->r + u, r, lanes);
    store(row->z + u, z, lanes);
    store(row->rh + u, r * load(row->h_prev + u, lanes), lanes);
}
KERNEL(gru_before_reset_forward, forward_row)

static ALWAYS_INLINE void FN(gru_before_forward_vector)(const forward_row *row, int64_t u, int64_t lanes) {
    const vec z = load(row->z + u, lanes), n = vtanh(preactivation(2));
    store_h(FN(blend)(row, z, n, load(row->h_prev + u, lanes)));
    if (row->gates) store(row->gates + 2 * row->H + u, n, lanes);
}
KERNEL(gru_before_forward, forward_row)

/* What both conventions share: gradients of a_z and a_n, and the part of dh_{t-1} that passes around the matrices. */
static ALWAYS_INLINE vec FN(gru_blend_backward)(const backward_row *row, int64_t u, int64_t lanes, vec *da_z) {
    const int64_t H = row->H;
    const vec z = load(row->gates + H + u, lanes), n = load(row->gates + 2 * H + u, lanes);
    const vec h_prev = load(row->h_prev + u, lanes), dh = load_dh();
    const vec keep = row->replace ? 1 - z : z, dkeep = dh * (h_prev - n); /* h = (1 - keep)*n + keep*h_prev */
    const vec dz = row->replace ? -dkeep : dkeep;
    *da_z = dz * z * (1 - z);
    store(row->dh + u, dh * keep, lanes);
    return dh * (1 - keep) * (1 - n * n); /* n = tanh(a_n) */
}

static ALWAYS_INLINE void FN(gru_after_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const int64_t H = row->H;
    const vec r = load(row->gates + u, lanes), hn = load(row->gates + 3 * H + u, lanes);
    vec da_z;
    const vec da_n = FN(gru_blend_backward)(row, u, lanes, &da_z);
    store_da(0, da_n * hn * r * (1 - r)); /* a_n = x_n + r*hn */
    store_da(1, da_z);
    store_da(2, da_n * r);
    store_da(3, da_n);
}
KERNEL(gru_after_backward, backward_row)

static ALWAYS_INLINE void FN(gru_before_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    vec da_z;
    const vec da_n = FN(gru_blend_backward)(row, u, lanes, &da_z);
    store_da(1, da_z);
    store_da(2, da_n);
}
KERNEL(gru_before_backward, backward_row)

/* Second half: a_n = x_n + U_n (r*h_prev), whose gradient in r*h_prev is drh. */
static ALWAYS_INLINE void FN(gru_before_reset_backward_vector)(const backward_row *row, int64_t u, int64_t lanes) {
    const vec r = load(row->gates + u, lanes), h_prev = load(row->h_prev + u, lanes), drh = load(row->drh + u, lanes);
    store_da(0, drh * h_prev * r * (1 - r));
    store(row->dh + u, load(row->dh + u, lanes) + drh * r, lanes);
}
KERNEL(gru_before_reset_backward, backward_row)

#include "product_body.h"

/* ---- The activations alone ---- */

static void FN(tanh_array)(int64_t n, const REAL *x, REAL *y) {
    int64_t k = 0;
    for (; k + VL <= n; k += VL) store(y + k, vtanh(load(x + k, VL)), VL);
    if (k < n) store(y + k, vtanh(load(x + k, n - k)), n - k);
}

static void FN(sigmoid_array)(int64_t n, const REAL *x, REAL *y) {
    int64_t k = 0;
    for (; k + VL <= n; k += VL) store(y + k, vsigmoid(load(x + k, VL)), VL);
    if (k < n) store(y + k, vsigmoid(load(x + k, n - k)), n - k);
}

#undef KERNEL
#undef preactivation
#undef store_h
#undef load_dh
#undef store_da
#undef forward_row
#undef backward_row
#undef vec
#undef ivec
#undef load
#undef store
#undef splat
#undef bits
#undef from_bits
#undef where_less
#undef quotient
#undef vtanh
#undef vsigmoid
