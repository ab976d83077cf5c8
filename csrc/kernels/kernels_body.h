/* All kernels for one dtype and instruction set. Included by kernels_isa.h only.
 *
 * First the words that the cells' kernels are written in. Each cell states its equations, and beside a line of its
 * backward kernel stands the forward line that it differentiates. `u` counts units; `lanes` is VL, but fewer in the
 * last vector of a row whose units do not fill it.
 */
#include "../simd/vector.h"
#include "../simd/activations.h"

#define forward_row FN(frnn_forward_row)
#define backward_row FN(frnn_backward_row)

/* The kernel of a row from its body for one vector. In the loop the number of lanes is a constant, so that loads and
 * stores compile to one instruction each. */
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

/* What an activation is given: `a`, bounded where the cell clips. NaN stays. */
static ALWAYS_INLINE vec FN(clipped)(REAL clip, vec a) {
    if (clip > 0) {
        const vec most = splat(clip);
        a = where_less(a, -most, -most, a);
        a = where_less(most, a, most, a);
    }
    return a;
}
#define clipped(a) FN(clipped)(row->clip, a)

static ALWAYS_INLINE void FN(store_h)(const forward_row *row, vec h, int64_t u, int64_t lanes) {
    store(row->h + u, h, lanes);
    if (row->y) store(row->y + u, h, lanes);
}
#define store_h(h) FN(store_h)(row, h, u, lanes)

/* dh_t: what came back from the next step, plus what the loss gives this step's output. */
static ALWAYS_INLINE vec FN(load_dh)(const backward_row *row, int64_t u, int64_t lanes) {
    vec dh = load(row->dh + u, lanes);
    if (row->dy) dh += load(row->dy + u, lanes);
    return dh;
}
#define load_dh() FN(load_dh)(row, u, lanes)

/* The candidate of a step with dropout, or a gradient in it. */
static ALWAYS_INLINE vec FN(dropped)(const REAL *mask, vec candidate, int64_t u, int64_t lanes) {
    return mask ? candidate * load(mask + u, lanes) : candidate;
}
#define dropped(candidate) FN(dropped)(row->mask, candidate, u, lanes)

/* The gradient of what was given to an activation, which made y of it: none where that was clipped, which y shows by
 * its distance from what the activation makes of 0. */
static ALWAYS_INLINE vec FN(through)(REAL most, vec da, vec distance) {
    if (most > 0) {
        const vec magnitude = from_bits(bits(distance) & ~bits(splat((REAL)-0.0)));
        da = where_less(splat(most), magnitude, splat(0), da);
    }
    return da;
}
#define through_sigmoid(da, y) FN(through)(row->most_sigmoid, da, (y) - (REAL)0.5)
#define through_tanh(da, y) FN(through)(row->most_tanh, da, y)
#define through_relu(da, y) FN(through)(row->most_relu, da, y)

/* The same for c, which is clipped only where it is given to tanh. */
#define through_clip(dc, c) FN(through)(row->clip, dc, c)

/* The gradient of the pre-activations of gate block k. In a packed array a row is whole vectors; lanes beyond the row's
 * end come out as zeros. */
static ALWAYS_INLINE void FN(store_da)(const backward_row *row, int k, vec da, int64_t u, int64_t lanes) {
    store(row->da + k * row->plane + u / VL * row->vector, da, row->vector > VL ? VL : lanes);
}
#define store_da(k, da) FN(store_da)(row, k, da, u, lanes)

#define FRNN_CELL_KERNELS
#include "../cells/cells.h"
#undef FRNN_CELL_KERNELS

#include "packed_body.h"

#if REAL_BITS == 32
#include "narrow_types.h"
#endif
#include "gradient_body.h"
#include "norm_body.h"
#include "softmax_body.h"
#include "attention_body.h"
#include "search_body.h"
#include "dropout_body.h"
#include "optimizers_body.h"

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

static void FN(log_sigmoid_array)(int64_t n, const REAL *x, REAL *y) {
    vec slope;
    int64_t k = 0;
    for (; k + VL <= n; k += VL) store(y + k, vlog_sigmoid(load(x + k, VL), &slope), VL);
    if (k < n) store(y + k, vlog_sigmoid(load(x + k, n - k), &slope), n - k);
}

#undef KERNEL
#undef preactivation
#undef clipped
#undef store_h
#undef load_dh
#undef dropped
#undef through_sigmoid
#undef through_tanh
#undef through_relu
#undef through_clip
#undef store_da
#undef forward_row
#undef backward_row
#undef vec
#undef ivec
#undef uvec
#undef load
#undef store
#undef splat
#undef bits
#undef from_bits
#undef transpose
#undef where_less
#undef quotient
#undef multiply_add
#undef square_root
#undef vexp
#undef vabs
#undef vlog_sigmoid
#undef vtanh
#undef vsigmoid
