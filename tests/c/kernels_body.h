/* The checks of kernels.c for one dtype. */
#define KERNELS frnn_kernels()->OF
#define PACKING KERNELS.packings[STORED]

static const FN(frnn_cell_kernels) *FN(cell)(const char *name) { return KERNELS.cells[frnn_kind(name)]; }

static REAL *FN(room)(int64_t n) { return guarded((size_t)n * sizeof(REAL), from_start); }

static REAL *FN(numbers)(int64_t n, double low, double high) {
    REAL *a = FN(room)(n);
    for (int64_t k = 0; k < n; k++) a[k] = (REAL)uniform(low, high);
    return a;
}

static REAL *FN(copied)(const REAL *a, int64_t n) {
    REAL *b = FN(room)(n);
    memcpy(b, a, (size_t)n * sizeof(REAL));
    return b;
}

#define SAME(what, k, actual, expected) compare(set, what, n, k, actual, expected, 50 * REAL_EPS)
/* a sum of K products, each rounded where it stands */
#define SAME_SUM(what, k, actual, expected) compare(set, what, n, k, actual, expected, (double)(50 + K) * REAL_EPS)

/* ---- Gates forwards ---- */

static void FN(check_forward)(int64_t n, int variant) {
    const int64_t H = n + variant % 3, plane = n + 5 * (variant % 2);
    const int replace = variant % 2, peephole = variant / 2 % 2, taped = variant / 4 % 2, twice = variant % 2;
    const REAL *a = FN(numbers)(3 * plane + n, -3, 3), *bias = FN(numbers)(3 * plane + n, -1, 1);
    const REAL *p = FN(numbers)(2 * H + n, -1, 1), *h_prev = FN(numbers)(n, -1, 1), *c_prev = FN(numbers)(n, -2, 2);
    FN(frnn_forward_row) row = {.n = n, .H = H, .plane = plane, .replace = replace, .a = a, .bias = bias};
    row.h = FN(room)(n), row.y = twice ? FN(room)(n) : NULL, row.h_prev = h_prev;

    FN(cell)("rnn_tanh")->forward(&row);
    for (int64_t u = 0; u < n; u++) SAME("rnn_tanh_forward", u, row.h[u], tanh((double)a[u] + bias[u]));
    for (int64_t u = 0; twice && u < n; u++) SAME("y", u, row.y[u], row.h[u]);
    FN(cell)("rnn_relu")->forward(&row);
    for (int64_t u = 0; u < n; u++) SAME("rnn_relu_forward", u, row.h[u], fmax(0, (double)a[u] + bias[u]));

    row.c = FN(copied)(c_prev, n), row.c_prev = row.c, row.peephole = peephole ? p : NULL;
    row.gates = taped ? FN(room)(3 * H + n) : NULL, row.cells = taped ? FN(room)(n) : NULL;
    FN(cell)("lstm")->forward(&row);
    for (int64_t u = 0; u < n; u++) {
        double x[4];
        for (int k = 0; k < 4; k++) x[k] = (double)a[k * plane + u] + bias[k * plane + u];
        if (peephole) x[0] += (double)p[u] * c_prev[u], x[1] += (double)p[H + u] * c_prev[u];
        const double i = sigmoid(x[0]), f = sigmoid(x[1]), g = tanh(x[2]), c = f * c_prev[u] + i * g;
        const double o = sigmoid(x[3] + (peephole ? p[2 * H + u] * c : 0)), gates[4] = {i, f, g, o};
        SAME("lstm_forward c", u, row.c[u], c);
        SAME("lstm_forward h", u, row.h[u], o * tanh(c));
        for (int k = 0; taped && k < 4; k++) SAME("lstm_forward gates", u, row.gates[k * H + u], gates[k]);
        if (taped) SAME("lstm_forward cells", u, row.cells[u], c);
    }

    FN(cell)("gru_after")->forward(&row);
    for (int64_t u = 0; u < n; u++) {
        double x[4];
        for (int k = 0; k < 4; k++) x[k] = (double)a[k * plane + u] + bias[k * plane + u];
        const double r = sigmoid(x[0]), z = sigmoid(x[1]), m = tanh(x[3] + r * x[2]), keep = replace ? 1 - z : z;
        const double gates[4] = {r, z, m, x[2]};
        SAME("gru_after_forward", u, row.h[u], (1 - keep) * m + keep * h_prev[u]);
        for (int k = 0; taped && k < 4; k++) SAME("gru_after_forward gates", u, row.gates[k * H + u], gates[k]);
    }

    row.gates = taped ? FN(room)(2 * H + n) : NULL;
    row.early = FN(room)(H + n), row.rh = FN(room)(n);
    FN(cell)("gru_before")->reset_forward(&row);
    FN(cell)("gru_before")->forward(&row);
    for (int64_t u = 0; u < n; u++) {
        const double r = sigmoid((double)a[u] + bias[u]), z = sigmoid((double)a[plane + u] + bias[plane + u]);
        const double m = tanh((double)a[2 * plane + u] + bias[2 * plane + u]), keep = replace ? 1 - z : z;
        SAME("gru_before_reset_forward r", u, row.early[u], r);
        SAME("gru_before_reset_forward z", u, row.early[H + u], z);
        SAME("gru_before_reset_forward rh", u, row.rh[u], r * h_prev[u]);
        SAME("gru_before_forward", u, row.h[u], (1 - keep) * m + keep * h_prev[u]);
        if (taped) SAME("gru_before_forward gates", u, row.gates[2 * H + u], m);
    }
    free_arrays();
}

/* ---- Gates backwards ---- */

/* Gate block k of da, which is row-major, or packed: then also that the last vector is filled up with zeros. */
static void FN(check_da)(const char *what, const FN(frnn_backward_row) *row, int k, const double *expected) {
    const int64_t n = row->n, lanes = KERNELS.lanes, end = row->vector > lanes ? (n + lanes - 1) / lanes * lanes : n;
    for (int64_t u = 0; u < end; u++)
        SAME(what, u, row->da[k * row->plane + u / lanes * row->vector + u % lanes], u < n ? expected[u] : 0);
}

static void FN(check_backward)(int64_t n, int variant) {
    const int64_t H = n + variant % 3, lanes = KERNELS.lanes, vectors = (n + lanes - 1) / lanes;
    const int replace = variant % 2, peephole = variant / 2 % 2, with_dy = variant % 2, packed = variant / 4 % 2;
    const REAL *sigmoids = FN(numbers)(3 * H + n, 0, 1), *tanhs = FN(numbers)(3 * H + n, -1, 1);
    const REAL *p = FN(numbers)(2 * H + n, -1, 1), *h_prev = FN(numbers)(n, -1, 1), *c_prev = FN(numbers)(n, -2, 2);
    const REAL *h = FN(numbers)(n, -1, 1), *c = FN(numbers)(n, -2, 2), *drh = FN(numbers)(n, -1, 1);
    const REAL *dy = FN(numbers)(n, -1, 1), *dh = FN(numbers)(n, -1, 1), *dc = FN(numbers)(n, -1, 1);
    double want[4][128];

    FN(frnn_backward_row) row = {.n = n, .H = H, .replace = replace, .h = h, .h_prev = h_prev};
    row.c = c, row.c_prev = c_prev, row.dy = with_dy ? dy : NULL, row.drh = drh, row.peephole = peephole ? p : NULL;
    row.vector = packed ? 3 * lanes : lanes; /* packed: as if among three rows, of which this is the last */
    row.plane = packed ? vectors * row.vector : n + 2;
    row.da = FN(room)(3 * row.plane + (packed ? (vectors - 1) * row.vector + lanes : n));
    row.dh = FN(copied)(dh, n);

    FN(cell)("rnn_tanh")->backward(&row);
    for (int64_t u = 0; u < n; u++) want[0][u] = ((double)dh[u] + (with_dy ? dy[u] : 0)) * (1 - (double)h[u] * h[u]);
    FN(check_da)("rnn_tanh_backward", &row, 0, want[0]);
    FN(cell)("rnn_relu")->backward(&row);
    for (int64_t u = 0; u < n; u++) want[0][u] = h[u] > 0 ? (double)dh[u] + (with_dy ? dy[u] : 0) : 0;
    FN(check_da)("rnn_relu_backward", &row, 0, want[0]);

    REAL *gates = FN(copied)(sigmoids, 3 * H + n);
    memcpy(gates + 2 * H, tanhs + 2 * H, (size_t)n * sizeof(REAL));
    row.gates = gates, row.dc = FN(copied)(dc, n);
    FN(cell)("lstm")->backward(&row);
    for (int64_t u = 0; u < n; u++) {
        const double i = gates[u], f = gates[H + u], g = gates[2 * H + u], o = gates[3 * H + u];
        const double tanh_c = tanh((double)c[u]), to_h = (double)dh[u] + (with_dy ? dy[u] : 0);
        want[3][u] = to_h * tanh_c * o * (1 - o);
        const double to_c = dc[u] + to_h * o * (1 - tanh_c * tanh_c) + (peephole ? want[3][u] * p[2 * H + u] : 0);
        want[0][u] = to_c * g * i * (1 - i), want[1][u] = to_c * c_prev[u] * f * (1 - f);
        want[2][u] = to_c * i * (1 - g * g);
        SAME("lstm_backward dc", u, row.dc[u], to_c * f + (peephole ? want[0][u] * p[u] + want[1][u] * p[H + u] : 0));
    }
    for (int k = 0; k < 4; k++) FN(check_da)("lstm_backward", &row, k, want[k]);

    row.dh = FN(copied)(dh, n); /* gates r, z, n, hn */
    FN(cell)("gru_after")->backward(&row);
    double keep[128], to_n[128];
    for (int64_t u = 0; u < n; u++) {
        const double r = gates[u], z = gates[H + u], m = gates[2 * H + u], hn = gates[3 * H + u];
        const double to_h = (double)dh[u] + (with_dy ? dy[u] : 0), to_keep = to_h * (h_prev[u] - m);
        keep[u] = replace ? 1 - z : z, to_n[u] = to_h * (1 - keep[u]) * (1 - m * m);
        want[0][u] = to_n[u] * hn * r * (1 - r), want[1][u] = (replace ? -to_keep : to_keep) * z * (1 - z);
        want[2][u] = to_n[u] * r, want[3][u] = to_n[u];
        SAME("gru_after_backward dh", u, row.dh[u], to_h * keep[u]);
    }
    for (int k = 0; k < 4; k++) FN(check_da)("gru_after_backward", &row, k, want[k]);

    row.gates = FN(copied)(gates, 2 * H + n), row.dh = FN(copied)(dh, n);
    row.da = FN(room)(2 * row.plane + (packed ? (vectors - 1) * row.vector + lanes : n));
    FN(cell)("gru_before")->backward(&row);
    FN(cell)("gru_before")->reset_backward(&row);
    for (int64_t u = 0; u < n; u++) {
        const double r = gates[u], to_h = (double)dh[u] + (with_dy ? dy[u] : 0);
        want[0][u] = (double)drh[u] * h_prev[u] * r * (1 - r);
        SAME("gru_before_backward dh", u, row.dh[u], to_h * keep[u] + drh[u] * r);
    }
    FN(check_da)("gru_before_reset_backward", &row, 0, want[0]);
    FN(check_da)("gru_before_backward z", &row, 1, want[1]);
    FN(check_da)("gru_before_backward n", &row, 2, to_n);
    free_arrays();
}

/* ---- Products ---- */

/* (K, columns) packed: from itself, from its transpose or row by row; `stride` is set. */
static REAL *FN(packed)(const REAL *r, int64_t K, int64_t columns, int how, int64_t *stride) {
    const int64_t lanes = KERNELS.lanes, vectors = (columns + lanes - 1) / lanes, n = columns;
    *stride = (K + 1) * lanes;
    REAL *packed = FN(room)((vectors - 1) * *stride + K * lanes);
    if (how == 0) {
        PACKING.pack(0, K, columns, r, columns, packed, *stride);
    } else if (how == 1) {
        REAL *transposed = FN(room)(K * columns);
        for (int64_t k = 0; k < K; k++)
            for (int64_t c = 0; c < columns; c++) transposed[c * K + k] = r[k * columns + c];
        PACKING.pack(1, K, columns, transposed, K, packed, *stride);
    } else {
        for (int64_t k = 0; k < K; k++)
            KERNELS.pack_row(columns, FN(copied)(r + k * columns, columns), packed, *stride, k);
    }
    for (int64_t c = 0; c < vectors * lanes; c++)
        for (int64_t k = 0; k < K; k++)
            SAME("pack", c, packed[c / lanes * *stride + k * lanes + c % lanes], c < columns ? r[k * columns + c] : 0);
    return packed;
}

static void FN(check_product)(int64_t rows, int64_t columns, int64_t K, int variant) {
    const int64_t n = columns, lanes = KERNELS.lanes, ldc = columns + variant % 3;
    const int beta = variant % 2, descending = variant / 2 % 2, a_packed = variant / 4 % 2;
    REAL *a = FN(numbers)(rows * K, -1, 1), *r = FN(numbers)(K * columns, -1, 1);
    REAL *c = FN(numbers)((rows - 1) * ldc + columns, -1, 1), *c0 = FN(copied)(c, (rows - 1) * ldc + columns);
    if (!beta)
        for (int64_t m = 0; m < rows; m++)
            for (int64_t k = 0; k < columns; k++) c[m * ldc + k] = (REAL)NAN; /* not to be read */
    int64_t a_stride, stride;
    const REAL *A = a_packed ? FN(packed)(a, rows, K, 0, &a_stride) : a;
    FN(frnn_product) p = {.c_vector = lanes};
    p.rows = rows, p.columns = columns, p.K = K, p.beta = beta, p.C = c, p.ldc = ldc, p.A = A;
    p.a_row = a_packed ? lanes : K, p.a_vector = a_packed ? a_stride : lanes;
    p.descending = descending;
    p.R = FN(packed)(r, K, columns, K < 40 && variant % 5 == 0 ? 2 : variant % 2, &stride), p.stride = stride;
    PACKING.multiply(&p);
    for (int64_t m = 0; m < rows; m++)
        for (int64_t k = 0; k < ldc && (k < columns || m + 1 < rows); k++) {
            double sum = beta || k >= columns ? c0[m * ldc + k] : 0;
            for (int64_t i = 0; k < columns && i < K; i++) sum += (double)a[m * K + i] * r[i * columns + k];
            SAME_SUM("multiply", m * ldc + k, c[m * ldc + k], sum);
        }
    free_arrays();
}

static void FN(check_gradient)(int64_t rows, int64_t columns, int64_t K, int variant) {
    const int64_t n = columns, ldc = columns + variant % 3;
    REAL *a = FN(numbers)(K * rows, -1, 1), *r = FN(numbers)(K * columns, -1, 1);
    REAL *c = FN(numbers)((rows - 1) * ldc + columns, -1, 1), *c0 = FN(copied)(c, (rows - 1) * ldc + columns);
    REAL *total = FN(numbers)(columns, -1, 1), *total0 = FN(copied)(total, columns);
    int64_t a_vector, stride;
    const int beta = variant % 2;
    for (int64_t m = 0; !beta && m < rows; m++)
        for (int64_t k = 0; k < columns; k++) c[m * ldc + k] = (REAL)NAN; /* not to be read */
    FN(frnn_product) p = {.rows = rows, .columns = columns, .K = K, .beta = beta, .C = c, .ldc = ldc};
    p.A = FN(packed)(a, K, rows, 0, &a_vector), p.R = FN(packed)(r, K, columns, 0, &stride);
    p.a_vector = a_vector, p.stride = stride;
    KERNELS.add_gradient(&p);
    for (int64_t m = 0; m < rows; m++)
        for (int64_t k = 0; k < ldc && (k < columns || m + 1 < rows); k++) {
            double sum = beta || k >= columns ? c0[m * ldc + k] : 0;
            for (int64_t i = 0; k < columns && i < K; i++) sum += (double)a[i * rows + m] * r[i * columns + k];
            SAME_SUM("add_gradient", m * ldc + k, c[m * ldc + k], sum);
        }
    KERNELS.add_columns(K, columns, p.R, stride, total);
    for (int64_t k = 0; k < columns; k++) {
        double sum = total0[k];
        for (int64_t i = 0; i < K; i++) sum += r[i * columns + k];
        SAME_SUM("add_columns", k, total[k], sum);
    }
    free_arrays();
}

/* ---- Activations ---- */

static void FN(check_activations)(int64_t n) {
    static const double special[] = {0,   -0.0, INFINITY, -INFINITY, NAN, 1e-30, -1e-30, 20,
                                     -20, 88,   -88,      90,        -90, 1e30,  -1e30};
    REAL *x = FN(numbers)(n, -12, 12), *y = FN(room)(n);
    for (int64_t k = 0; k < n; k++)
        if (integer(0, 4) == 0) x[k] = (REAL)special[integer(0, 14)];
    KERNELS.tanh(n, x, y);
    for (int64_t k = 0; k < n; k++) {
        SAME("tanh", k, y[k], tanh((double)x[k]));
        if (!isnan(x[k]) && !signbit(x[k]) != !signbit(y[k])) fail(set, "sign of tanh", n, k, y[k], x[k]);
    }
    KERNELS.sigmoid(n, x, y);
    for (int64_t k = 0; k < n; k++) {
        const double expected = sigmoid(x[k]);
        SAME("sigmoid", k, y[k], expected);
        if (expected < TINY && y[k] > 2 * TINY) fail(set, "a vanishing sigmoid", n, k, y[k], expected);
    }
    free_arrays();
}

/* ---- Dropout ---- */

/* Of n values, the first of which is element `begin` of an array. */
static void FN(check_dropout)(int64_t begin, int64_t n, int in_place) {
    const REAL *x = FN(numbers)(n, -3, 3);
    REAL *y = in_place ? FN(copied)(x, n) : FN(room)(n);
    const REAL *read = in_place ? y : x;
    const uintptr_t before = (uintptr_t)begin * sizeof(REAL);
    FN(frnn_dropout) run = {.key = next_random(), .threshold = (uint32_t)next_random(), .scale = 3};
    run.x = (const REAL *)((uintptr_t)read - before), run.y = (REAL *)((uintptr_t)y - before);
    KERNELS.dropout(&run, begin, begin + n);
    for (int64_t k = 0; k < n; k++) {
        const uint64_t block = (uint64_t)((begin + k) / 64 * 16 + k % 16);
        uint32_t words[4] = {(uint32_t)block, (uint32_t)(block >> 32), 0, 0};
        philox(words, (uint32_t)run.key, (uint32_t)(run.key >> 32));
        SAME("dropout", k, y[k], words[k % 64 / 16] >= run.threshold ? 3 * (double)x[k] : 0);
    }
    free_arrays();
}

/* ---- Softmax: a vector of rows, whose classes follow each other ---- */

static void FN(check_softmax)(int64_t classes, int variant) {
    const int64_t lanes = KERNELS.lanes, n = classes, vectors = variant % 3 + 1, K = vectors * lanes + classes;
    const int64_t stride = (classes + 1) * lanes;
    const REAL *logits = FN(numbers)(vectors * stride, -30, 30), *bias = FN(numbers)(classes, -1, 1);
    REAL *e = FN(copied)(logits, vectors * stride), *part = FN(room)(lanes), *sums = FN(room)(lanes);
    const REAL *top = FN(numbers)(lanes, 31, 40), *ratio = FN(numbers)(lanes, 0, 1);
    REAL *silent = FN(room)(lanes), *total = FN(numbers)(classes, -1, 1), *total0 = FN(copied)(total, classes);
    for (int64_t lane = 0; lane < lanes; lane++) silent[lane] = lane % 3 == 1;
    KERNELS.softmax_exp(classes, variant % 2 ? bias : NULL, e, part, sums);
    for (int64_t lane = 0; lane < lanes; lane++) {
        double most = -1000, sum = 0;
        for (int64_t v = 0; v < classes; v++)
            most = fmax(most, (double)(REAL)(logits[v * lanes + lane] + (variant % 2 ? bias[v] : 0)));
        SAME("top", lane, part[lane], most);
        for (int64_t v = 0; v < classes; v++) {
            const double y = exp((double)(REAL)(logits[v * lanes + lane] + (variant % 2 ? bias[v] : 0)) - most);
            SAME("exp", v * lanes + lane, e[v * lanes + lane], y);
            sum += y;
        }
        SAME_SUM("sum of exp", lane, sums[lane], sum);
    }
    const REAL *before = FN(copied)(e, vectors * stride);
    KERNELS.softmax_scale(classes, part, top, ratio, silent, e);
    for (int64_t v = 0; v < classes; v++)
        for (int64_t lane = 0; lane < lanes; lane++) {
            const double factor = exp((double)part[lane] - top[lane]) * ratio[lane];
            SAME("scale", v * lanes + lane, e[v * lanes + lane],
                 silent[lane] > 0.5 ? 0 : before[v * lanes + lane] * factor);
        }
    KERNELS.softmax_add(classes, vectors, e, stride, total);
    for (int64_t v = 0; v < classes; v++) {
        double sum = total0[v];
        for (int64_t i = 0; i < vectors * lanes; i++) sum += e[i / lanes * stride + v * lanes + i % lanes];
        SAME_SUM("sums of classes", v, total[v], sum);
    }
    free_arrays();
}

/* ---- Optimisers ---- */

static void FN(check_optimizers)(int64_t n, int variant) {
    const int weight_decay = variant % 2, nesterov = variant / 2 % 2, has_g = variant / 4 % 2;
    const frnn_sgd sgd = {0.5, 0.1, 0.9, weight_decay ? 0.2 : 0, nesterov};
    const frnn_adam adam = {0.5, 0.1, 0.9, 0.99, 1e-3, weight_decay ? 0.98 : 1};
    const REAL *p0 = FN(numbers)(n, -1, 1), *g = FN(numbers)(n, -1, 1), *m0 = FN(numbers)(n, -1, 1);
    const REAL *v0 = FN(numbers)(n, 0, 1);
    REAL *p = FN(copied)(p0, n), *b = FN(copied)(m0, n);
    KERNELS.sgd(&sgd, n, p, has_g ? g : NULL, b, NULL);
    for (int64_t u = 0; u < n; u++) {
        const double step = (has_g ? 0.5 * g[u] : 0) + sgd.weight_decay * p0[u], moment = 0.9 * m0[u] + step;
        SAME("momentum", u, b[u], moment);
        SAME("sgd with momentum", u, p[u], p0[u] - 0.1 * (nesterov ? step + 0.9 * moment : moment));
    }
    p = FN(copied)(p0, n);
    KERNELS.sgd(&sgd, n, p, has_g ? g : NULL, NULL, NULL);
    for (int64_t u = 0; u < n; u++)
        SAME("sgd", u, p[u], p0[u] - 0.1 * ((has_g ? 0.5 * g[u] : 0) + sgd.weight_decay * p0[u]));

    p = FN(copied)(p0, n);
    REAL *m = FN(copied)(m0, n), *v = FN(copied)(v0, n);
    KERNELS.adam(&adam, n, p, has_g ? g : NULL, m, v);
    for (int64_t u = 0; u < n; u++) {
        const double gradient = has_g ? 0.5 * g[u] : 0, mean = 0.9 * m0[u] + 0.1 * gradient;
        const double square = 0.99 * v0[u] + 0.01 * gradient * gradient;
        SAME("adam m", u, m[u], mean);
        SAME("adam v", u, v[u], square);
        SAME("adam", u, p[u], adam.keep * p0[u] - 0.1 * mean / (sqrt(square) + 1e-3));
    }

    /* square roots are exact: p = 1/sqrt(v) */
    const frnn_adam roots = {0, -1, 1, 1, 0, 0};
    for (int64_t u = 0; u < n; u++) m[u] = 1;
    KERNELS.adam(&roots, n, p, NULL, m, v);
    for (int64_t u = 0; u < n; u++) compare(set, "square root", n, u, p[u], 1 / (REAL)sqrt(v[u]), 0);

    double sum = 0;
    for (int64_t u = 0; u < n; u++) sum += (double)g[u] * g[u];
    compare(set, "squares", n, 0, KERNELS.squares(n, g), sum, 1e-13);
    free_arrays();
}

static void FN(check)(void) {
    for (int64_t n = 1; n < 100; n++)
        for (int variant = 0; variant < 8; variant++) FN(check_optimizers)(n, variant);
    for (int64_t n = 1; n < 40; n++)
        for (int variant = 0; variant < 8; variant++) {
            FN(check_forward)(n, variant);
            FN(check_backward)(n, variant);
        }
    for (int64_t n = 1; n < 100; n++) FN(check_activations)(n);
    for (int variant = 0; variant < 30; variant++) FN(check_softmax)(integer(1, 100), variant);
    for (int64_t n = 1; n < 200; n++) /* also at places that do not fit 32 bits */
        FN(check_dropout)(64 * (n % 3 ? n % 3 - 1 : ((int64_t)1 << 34) - 1), n, n % 2);
    for (int variant = 0; variant < 240; variant++) { /* every height of a tile, alone and followed by others */
        FN(check_product)(variant % 20 + 1, integer(1, 130), integer(1, 40), variant);
        FN(check_gradient)(integer(1, 70), integer(1, 130), integer(1, 40), variant);
    }
    for (int variant = 0; variant < 8; variant++) { /* more than one chunk of K */
        FN(check_product)(integer(7, 15), integer(1, 140), integer(520, 1100), variant);
        FN(check_gradient)(integer(1, 20), integer(1, 40), integer(250, 400), variant);
    }
}

#undef KERNELS
#undef SAME
#undef SAME_SUM
