/* Steps of optimisers, one value at a time (fastrnn/optim.py has the equations), and sums of squares. Included by
 * kernels_body.h. A gradient that is null is zeros. */

static ALWAYS_INLINE void FN(sgd_vector)(const frnn_sgd *rule, REAL *p, const REAL *g, REAL *momentum, int64_t lanes) {
    vec value = load(p, lanes), step = splat(0);
    if (g) step = load(g, lanes) * (REAL)rule->scale;
    if (rule->weight_decay != 0) step = multiply_add(value, splat((REAL)rule->weight_decay), step);
    if (momentum) {
        const vec factor = splat((REAL)rule->momentum), b = multiply_add(load(momentum, lanes), factor, step);
        store(momentum, b, lanes);
        step = rule->nesterov ? multiply_add(b, factor, step) : b;
    }
    store(p, multiply_add(step, splat((REAL)-rule->lr), value), lanes);
}

static ALWAYS_INLINE void FN(adam_vector)(const frnn_adam *rule, REAL *p, const REAL *g, REAL *m, REAL *v,
                                          int64_t lanes) {
    vec mean = load(m, lanes) * (REAL)rule->beta1, square = load(v, lanes) * (REAL)rule->beta2;
    if (g) {
        const vec gradient = load(g, lanes) * (REAL)rule->scale;
        mean = multiply_add(gradient, splat((REAL)(1 - rule->beta1)), mean);
        square = multiply_add(gradient * gradient, splat((REAL)(1 - rule->beta2)), square);
    }
    store(m, mean, lanes);
    store(v, square, lanes);
    const vec step = mean / (square_root(square) + (REAL)rule->eps);
    store(p, multiply_add(step, splat((REAL)-rule->lr), load(p, lanes) * (REAL)rule->keep), lanes);
}

/* A rule is copied, so that the compiler knows that no store changes it. */
static void FN(sgd)(const void *rule, int64_t n, void *p_, const void *g_, void *momentum_, void *unused) {
    const frnn_sgd own = *(const frnn_sgd *)rule;
    REAL *p = p_, *momentum = momentum_;
    const REAL *g = g_;
    int64_t k = 0;
    for (; k + VL <= n; k += VL) FN(sgd_vector)(&own, p + k, g ? g + k : NULL, momentum ? momentum + k : NULL, VL);
    if (k < n) FN(sgd_vector)(&own, p + k, g ? g + k : NULL, momentum ? momentum + k : NULL, n - k);
    (void)unused;
}

static void FN(adam)(const void *rule, int64_t n, void *p_, const void *g_, void *m_, void *v_) {
    const frnn_adam own = *(const frnn_adam *)rule;
    REAL *p = p_, *m = m_, *v = v_;
    const REAL *g = g_;
    int64_t k = 0;
    for (; k + VL <= n; k += VL) FN(adam_vector)(&own, p + k, g ? g + k : NULL, m + k, v + k, VL);
    if (k < n) FN(adam_vector)(&own, p + k, g ? g + k : NULL, m + k, v + k, n - k);
}

/* In double, because the square of a float may overflow; in 16 sums, which are the same in every instruction set. */
static double FN(squares)(int64_t n, const void *values) {
    enum { SUMS = 16 };
    const REAL *x = values;
    double sums[SUMS] = {0};
    int64_t k = 0;
    for (; k + SUMS <= n; k += SUMS)
        for (int j = 0; j < SUMS; j++) sums[j] += (double)x[k + j] * x[k + j];
    for (int j = 0; k + j < n; j++) sums[j] += (double)x[k + j] * x[k + j];
    for (int half = SUMS / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++) sums[j] += sums[j + half];
    return sums[0];
}
