/* Attention, for one dtype. Included by training_body.h. */

typedef FN(frnn_rows_product) FN(rows_product);

/* Where row b of a series begins; its steps lie stride_t apart. */
static REAL *FN(row_of)(const frnn_series *series, int64_t b) { return (REAL *)series->data + b * series->stride_b; }

static int64_t FN(length_of)(const frnn_attention_args *args, int64_t b) {
    return args->lengths ? args->lengths[b] : args->S;
}

/* Copies `n` values of each of U steps. */
static void FN(copy_steps)(int64_t U, int64_t n, const REAL *from, int64_t from_step, REAL *to, int64_t to_step) {
    for (int64_t u = 0; u < U; u++) memcpy(to + u * to_step, from + u * from_step, (size_t)n * sizeof(REAL));
}

static void FN(attend_row)(const frnn_attention_args *args, int64_t b) {
    const KERNELS *kernels = &frnn_kernels()->KERNELS_OF;
    const int64_t U = args->U, S = args->S, Q = args->Q, M = args->M, length = FN(length_of)(args, b);
    const frnn_series *queries = &args->queries, *keys = &args->keys, *values = &args->values, *joined = &args->joined;
    REAL *weights = (REAL *)args->weights + b * U * S, *read = FN(row_of)(joined, b);
    FN(rows_product) scores = {.rows = U, .columns = length, .K = Q, .C = weights, .c_row = S};
    scores.A = FN(row_of)(queries, b), scores.a_row = queries->stride_t;
    scores.B = FN(row_of)(keys, b), scores.b_row = keys->stride_t;
    kernels->dots(&scores);
    for (int64_t u = 0; u < U; u++) {
        if (length > 0) kernels->softmax(length, weights + u * S);
        memset(weights + u * S + length, 0, (size_t)(S - length) * sizeof(REAL));
    }
    FN(rows_product) mean = {.rows = U, .columns = M, .K = length, .A = weights, .a_row = S, .a_k = 1};
    mean.B = FN(row_of)(values, b), mean.b_row = values->stride_t, mean.C = read, mean.c_row = joined->stride_t;
    kernels->weigh(&mean);
    FN(copy_steps)(U, Q, scores.A, queries->stride_t, read + M, joined->stride_t);
}

static void FN(attend_backward_row)(const frnn_attention_args *args, int64_t b, REAL *dscores) {
    const KERNELS *kernels = &frnn_kernels()->KERNELS_OF;
    const int64_t U = args->U, S = args->S, Q = args->Q, M = args->M, length = FN(length_of)(args, b);
    const REAL *weights = (const REAL *)args->weights + b * U * S, *djoined = FN(row_of)(&args->joined, b);
    const REAL *queries = FN(row_of)(&args->queries, b), *keys = FN(row_of)(&args->keys, b);
    REAL *dqueries = FN(row_of)(&args->dqueries, b), *dkeys = FN(row_of)(&args->dkeys, b);
    REAL *dvalues = FN(row_of)(&args->dvalues, b);
    const int64_t djoined_step = args->joined.stride_t, dqueries_step = args->dqueries.stride_t;
    const int64_t dkeys_step = args->dkeys.stride_t, dvalues_step = args->dvalues.stride_t;

    FN(rows_product) p = {.rows = U, .columns = length, .K = M, .A = djoined, .a_row = djoined_step};
    p.B = FN(row_of)(&args->values, b), p.b_row = args->values.stride_t, p.C = dscores, p.c_row = S;
    kernels->dots(&p);
    for (int64_t u = 0; u < U; u++) kernels->softmax_backward(length, weights + u * S, dscores + u * S);

    FN(copy_steps)(U, Q, djoined + M, djoined_step, dqueries, dqueries_step);
    p = (FN(rows_product)){.rows = U, .columns = Q, .K = length, .A = dscores, .a_row = S, .a_k = 1, .beta = 1};
    p.B = keys, p.b_row = args->keys.stride_t, p.C = dqueries, p.c_row = dqueries_step;
    kernels->weigh(&p);

    p = (FN(rows_product)){.rows = length, .columns = Q, .K = U, .A = dscores, .a_row = 1, .a_k = S};
    p.B = queries, p.b_row = args->queries.stride_t, p.C = dkeys, p.c_row = dkeys_step;
    kernels->weigh(&p);

    p = (FN(rows_product)){.rows = length, .columns = M, .K = U, .A = weights, .a_row = 1, .a_k = S};
    p.B = djoined, p.b_row = djoined_step, p.C = dvalues, p.c_row = dvalues_step;
    kernels->weigh(&p);

    for (int64_t s = length; s < S; s++) {
        memset(dkeys + s * dkeys_step, 0, (size_t)Q * sizeof(REAL));
        memset(dvalues + s * dvalues_step, 0, (size_t)M * sizeof(REAL));
    }
}

typedef struct {
    const frnn_attention_args *args;
    REAL *dscores; /* a member's each: (U, S) */
} FN(attention_run);

static void FN(attend_work)(void *context, const frnn_team *team) {
    const FN(attention_run) *run = context;
    for (int64_t b = team->index; b < run->args->B; b += team->size) FN(attend_row)(run->args, b);
}

static void FN(attend_backward_work)(void *context, const frnn_team *team) {
    const FN(attention_run) *run = context;
    REAL *dscores = run->dscores + team->index * run->args->U * run->args->S;
    for (int64_t b = team->index; b < run->args->B; b += team->size) FN(attend_backward_row)(run->args, b, dscores);
}

/* A few queries take as long as it takes to read the memory. */
static int64_t FN(attention_time)(const frnn_attention_args *args, double products) {
    const double queries = (double)FRNN_MAX(args->U, 6) * (double)args->B;
    return FN(product_time)(products * queries * (double)args->S * (double)(args->Q + args->M));
}

void FN(frnn_attend)(const frnn_attention_args *args, int threads) {
    FN(attention_run) run = {.args = args};
    frnn_team_run(threads, FN(attention_time)(args, 2), FN(attend_work), &run);
}

int64_t FN(frnn_attend_backward_workspace)(const frnn_attention_args *args, int threads) {
    return threads * args->U * args->S * (int64_t)sizeof(REAL);
}

void FN(frnn_attend_backward)(const frnn_attention_args *args, int threads, void *workspace) {
    FN(attention_run) run = {.args = args, .dscores = workspace};
    frnn_team_run(threads, FN(attention_time)(args, 4), FN(attend_backward_work), &run);
}
