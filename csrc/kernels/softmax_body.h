/* Softmax, for one dtype and instruction set. Included by kernels_body.h.
 *
 * Logits lie here with rows and columns exchanged: a vector holds one class of VL rows, and classes follow each other.
 * So a row's largest logit and its sum are found without any step across a vector.
 */

/* e = exp(e + bias - top), with top (VL) the largest of e + bias among `classes`, and sum (VL) that of the results. */
static void FN(softmax_exp)(int64_t classes, const REAL *bias, REAL *e, REAL *top, REAL *sum) {
    vec most = splat(REAL_BITS == 32 ? (REAL)-3.0e38 : (REAL)-1.0e308), total = splat(0);
    for (int64_t v = 0; v < classes; v++) {
        const vec x = load(e + v * VL, VL) + (bias ? bias[v] : 0);
        store(e + v * VL, x, VL);
        most = where_less(most, x, x, most);
    }
    for (int64_t v = 0; v < classes; v++) {
        const vec y = vexp(load(e + v * VL, VL) - most);
        store(e + v * VL, y, VL);
        total += y;
    }
    store(top, most, VL);
    store(sum, total, VL);
}

/* e = e * exp(part - top) * ratio: from what softmax_exp left, where top was `part`, to what it is of all classes.
 * Zeros where `silent` is 1, even if e is not finite. */
static void FN(softmax_scale)(int64_t classes, const REAL *part, const REAL *top, const REAL *ratio, const REAL *silent,
                              REAL *e) {
    const vec factor = vexp(load(part, VL) - load(top, VL)) * load(ratio, VL);
    const vec half = splat((REAL)0.5), quiet = load(silent, VL);
    for (int64_t v = 0; v < classes; v++)
        store(e + v * VL, where_less(half, quiet, splat(0), load(e + v * VL, VL) * factor), VL);
}

/* sum[v] += the sum of all rows' values of class v; rows are `vectors` vectors, `stride` values apart. */
static void FN(softmax_add)(int64_t classes, int64_t vectors, const REAL *e, int64_t stride, REAL *sum) {
    for (int64_t v = 0; v < classes; v++) {
        vec total = splat(0);
        for (int64_t i = 0; i < vectors; i++) total += load(e + i * stride + v * VL, VL);
        REAL lanes[VL_MOST];
        store(lanes, total, VL);
        for (int64_t lane = 0; lane < VL; lane++) sum[v] += lanes[lane];
    }
}
