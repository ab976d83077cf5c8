/* Layer normalisation, for one dtype and instruction set. Included by kernels_body.h. docs/math.md has the equations.
 *
 * A row is normalised over all of its units, of which a member of a team may have only some. So sums go over groups of
 * FRNN_UNITS units first, and members share units in whole groups: the sum of a group has the same bits whoever
 * computes it, and the driver adds up groups one by one.
 *
 * Loops have one copy for whole and for partial vectors, which the cells' have twice: these kernels take a small part
 * of a step, and there are many of them.
 */
#define norm_row FN(frnn_norm_row)
#define norm_backward_row FN(frnn_norm_backward_row)

/* Where gate k's values are among blocks of pre-activations. */
#define BLOCK(k) ((k) < row->joint ? (k) : (k) + row->apart)

/* All lanes become the sum of all lanes. */
static ALWAYS_INLINE vec FN(sum_all)(vec v) {
#if VECTOR_BYTES && FRNN_SHUFFLES
#define ACROSS_2(d, l) (l) ^ (d), ((l) + 1) ^ (d)
#define ACROSS_4(d, l) ACROSS_2(d, l), ACROSS_2(d, l + 2)
#define ACROSS_8(d, l) ACROSS_4(d, l), ACROSS_4(d, l + 4)
#define ACROSS_16(d, l) ACROSS_8(d, l), ACROSS_8(d, l + 8)
#if VECTOR_BYTES * 8 / REAL_BITS == 2
    v += __builtin_shufflevector(v, v, ACROSS_2(1, 0));
#elif VECTOR_BYTES * 8 / REAL_BITS == 4
    v += __builtin_shufflevector(v, v, ACROSS_4(2, 0));
    v += __builtin_shufflevector(v, v, ACROSS_4(1, 0));
#elif VECTOR_BYTES * 8 / REAL_BITS == 8
    v += __builtin_shufflevector(v, v, ACROSS_8(4, 0));
    v += __builtin_shufflevector(v, v, ACROSS_8(2, 0));
    v += __builtin_shufflevector(v, v, ACROSS_8(1, 0));
#else
    v += __builtin_shufflevector(v, v, ACROSS_16(8, 0));
    v += __builtin_shufflevector(v, v, ACROSS_16(4, 0));
    v += __builtin_shufflevector(v, v, ACROSS_16(2, 0));
    v += __builtin_shufflevector(v, v, ACROSS_16(1, 0));
#endif
#undef ACROSS_2
#undef ACROSS_4
#undef ACROSS_8
#undef ACROSS_16
    return v;
#elif VECTOR_BYTES
    REAL lanes[VL_MOST];
    store(lanes, v, VL);
    for (int half = VL_MOST / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return splat(lanes[0]);
#else
    return v;
#endif
}

/* v with zeros beyond `lanes`. */
static ALWAYS_INLINE vec FN(only)(vec v, int64_t lanes) {
    if (lanes >= VL) return v;
    REAL some[VL_MOST];
    store(some, v, VL);
    return load(some, lanes);
}

/* Does `...` for each vector of a group of `units` units from u on: of its units `at` has the first, `lanes` how many.
 */
#define FOR_GROUP(units, ...)                                                                                          \
    for (int64_t v = 0; v < FRNN_UNITS; v += VL)                                                                       \
        if (v < (units)) {                                                                                             \
            const int64_t at = u + v, lanes = FRNN_MIN(VL, (units) - v);                                               \
            __VA_ARGS__                                                                                                \
        }

/* ---- Forwards ---- */

static ALWAYS_INLINE void FN(group_moments)(const norm_row *row, int64_t u, int64_t units, REAL *mean, REAL *squares) {
    vec sum = splat(0), square = splat(0);
    for (int k = 0; k < row->gates; k++) FOR_GROUP(units, sum += load(row->x + BLOCK(k) * row->plane + at, lanes);)
    const vec middle = FN(sum_all)(sum) * ((REAL)1 / (REAL)(row->gates * units));
    for (int k = 0; k < row->gates; k++)
        FOR_GROUP(units, const vec away = FN(only)(load(row->x + BLOCK(k) * row->plane + at, lanes) - middle, lanes);
                  square += away * away;)
    store(mean, middle, 1);
    store(squares, FN(sum_all)(square), 1);
}

/* Of each group of x: its mean, and the sum of squared differences from that. */
static void FN(norm_moments)(const norm_row *row, REAL *means, REAL *squares) {
    for (int64_t u = 0; u < row->n; u += FRNN_UNITS)
        FN(group_moments)(row, u, FRNN_MIN(FRNN_UNITS, row->n - u), means++, squares++);
}

static ALWAYS_INLINE void FN(normalize_vector)(const norm_row *row, int k, int64_t u, int64_t lanes) {
    const int64_t at = BLOCK(k) * row->plane + u;
    const vec normal = (load(row->x + at, lanes) - row->mean) * row->inverse;
    if (row->normal) store(row->normal + k * row->H + u, normal, lanes);
    if (!row->y) return;
    const vec gain = load(row->gain + k * row->H + u, lanes);
    store(row->y + at, row->adds ? load(row->y + at, lanes) + normal * gain : normal * gain, lanes);
}

/* y = gain*normal, or added to; normal = (x - mean)*inverse. */
static void FN(normalize)(const norm_row *row) {
    for (int k = 0; k < row->gates; k++)
        for (int64_t u = 0; u < row->n; u += VL) FN(normalize_vector)(row, k, u, FRNN_MIN(VL, row->n - u));
}

/* What is shown of c: gain*normal + bias. */
static ALWAYS_INLINE vec FN(shown)(const REAL *gain, const REAL *bias, vec normal, int64_t u, int64_t lanes) {
    const vec scaled = normal * load(gain + u, lanes);
    return bias ? scaled + load(bias + u, lanes) : scaled;
}

static ALWAYS_INLINE void FN(norm_output_vector)(const norm_row *row, int64_t u, int64_t lanes) {
    const vec normal = (load(row->x + u, lanes) - row->mean) * row->inverse;
    const vec h = load(row->y + u, lanes) * vtanh(FN(shown)(row->gain, row->bias, normal, u, lanes));
    store(row->y + u, h, lanes);
    if (row->copy) store(row->copy + u, h, lanes);
}
/* h = o*tanh(gain*normal + bias), of c as x; y has o, and then h. */
static void FN(norm_output)(const norm_row *row) {
    for (int64_t u = 0; u < row->n; u += VL) FN(norm_output_vector)(row, u, FRNN_MIN(VL, row->n - u));
}

/* ---- Backwards ---- */

static ALWAYS_INLINE void FN(norm_output_backward_vector)(const norm_backward_row *row, int64_t u, int64_t lanes) {
    const vec normal = (load(row->c + u, lanes) - row->mean) * row->inverse;
    const vec q = vtanh(FN(shown)(row->gain, row->bias, normal, u, lanes));
    vec dh = load(row->dh + u, lanes);
    if (row->dy) dh += load(row->dy + u, lanes);
    store(row->normal + u, normal, lanes);
    store(row->dh + u, dh * q, lanes); /* h = o*q */
    store(row->da + u / VL * row->vector, FN(only)(dh * load(row->o + u, lanes) * (1 - q * q), lanes),
          row->vector > VL ? VL : lanes); /* q = tanh(shown) */
}
/* From dh the gradients of o, in place, and of gain*normal + bias, as da; normal of c is computed again. */
static void FN(norm_output_backward)(const norm_backward_row *row) {
    for (int64_t u = 0; u < row->n; u += VL) FN(norm_output_backward_vector)(row, u, FRNN_MIN(VL, row->n - u));
}

/* The gradient of normal. */
static ALWAYS_INLINE vec FN(load_dnormal)(const norm_backward_row *row, int k, int64_t u, int64_t lanes) {
    return load(row->da + BLOCK(k) * row->plane + u / VL * row->vector, lanes) *
           load(row->gain + k * row->H + u, lanes);
}

static ALWAYS_INLINE void FN(group_sums)(const norm_backward_row *row, int64_t u, int64_t units, REAL *first,
                                         REAL *second) {
    vec sum = splat(0), weighted = splat(0);
    for (int k = 0; k < row->gates; k++)
        FOR_GROUP(units, const vec d = FN(load_dnormal)(row, k, at, lanes); sum += d;
                  weighted += d * load(row->normal + k * row->H + at, lanes);)
    store(first, FN(sum_all)(sum), 1);
    store(second, FN(sum_all)(weighted), 1);
}

/* Of each group: the sum of dnormal, and of dnormal*normal. */
static void FN(norm_sums)(const norm_backward_row *row, REAL *first, REAL *second) {
    for (int64_t u = 0; u < row->n; u += FRNN_UNITS)
        FN(group_sums)(row, u, FRNN_MIN(FRNN_UNITS, row->n - u), first++, second++);
}

static ALWAYS_INLINE void FN(norm_backward_vector)(const norm_backward_row *row, int k, int64_t u, int64_t lanes) {
    const vec normal = load(row->normal + k * row->H + u, lanes);
    vec dx = (FN(load_dnormal)(row, k, u, lanes) - row->first - normal * row->second) * row->inverse;
    REAL *to = row->dx + BLOCK(k) * row->plane + u / VL * row->dx_vector;
    if (row->adds) dx = load(to, lanes) + dx;
    if (row->dx_vector > VL)
        store(to, FN(only)(dx, lanes), VL);
    else
        store(to, dx, lanes);
}

/* dx = (dnormal - first - normal*second)*inverse, or added to; `first` and `second` are the means of the row's sums. */
static void FN(norm_backward)(const norm_backward_row *row) {
    for (int k = 0; k < row->gates; k++)
        for (int64_t u = 0; u < row->n; u += VL) FN(norm_backward_vector)(row, k, u, FRNN_MIN(VL, row->n - u));
}

/* dgain += da*normal */
static void FN(norm_add_gain)(const norm_backward_row *row, REAL *dgain) {
    for (int k = 0; k < row->gates; k++)
        for (int64_t u = 0; u < row->n; u += VL) {
            const int64_t lanes = FRNN_MIN(VL, row->n - u);
            const vec da = load(row->da + BLOCK(k) * row->plane + u / VL * row->vector, lanes);
            REAL *to = dgain + k * row->H + u;
            store(to, load(to, lanes) + da * load(row->normal + k * row->H + u, lanes), lanes);
        }
}

#undef norm_row
#undef norm_backward_row
#undef BLOCK
#undef FOR_GROUP
