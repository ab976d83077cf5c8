/* What searches need of a row of logits, for one dtype and instruction set. Included by kernels_body.h. */

/* y = exp((x - top)*scale), unless y is null, for x <= top and scale > 0; returns the sum. What is below the least
 * normal number becomes 0. */
static REAL FN(exponentials)(int64_t n, const REAL *x, REAL top, REAL scale, REAL *y) {
    const vec low = splat(REAL_BITS == 32 ? (REAL)-87.0 : (REAL)-708.0);
    vec total = splat(0);
    REAL sum = 0;
    for (int64_t k = 0; k < n; k += VL) {
        const vec a = (load(x + k, n - k) - top) * scale;
        const vec e = where_less(a, low, splat(0), vexp(a));
        if (y) store(y + k, e, n - k);
        if (n - k >= VL)
            total += e;
        else
            sum = FN(sum_lanes)(e, n - k);
    }
    return sum + FN(sum_lanes)(total, VL);
}

static void FN(widen)(int64_t n, const REAL *x, double *y) {
    for (int64_t k = 0; k < n; k++) y[k] = (double)x[k];
}
