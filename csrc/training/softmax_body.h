/* Softmax and cross-entropy of a linear layer's outputs, for one dtype. Included by training_body.h.
 *
 *     l = x W^T + b        p = softmax(l)        loss_n = -log p[n, target_n]
 *     g = shares*(p - one_hot(targets))          dx = g W        dW = g^T x        db = g^T 1
 *
 * Logits are computed with rows and columns exchanged, l^T = W x^T: so W, which is large, is read as it is, and only x
 * is packed. They lie packed (csrc/README.md), and become probabilities and then g in their place.
 *
 *     1. for each block of classes and some rows: l^T, exp(l - its largest), its largest, its sum
 *     2. for each row: the loss, and what all blocks have in common
 *     3. g                      4. for each block of classes: dW, db            5. for each share of the rows: dx
 *
 * All rows at once, or as many as fit into LOGITS_BYTES. The blocks are the same for any number of threads.
 */

#define CLASSES 96              /* in a block */
#define ROWS 256                /* of a task in 1 and 3 */
#define INPUTS 64               /* of a task in 4 */
#define WEIGHT_ROWS 512         /* of W that are packed at a time in 5 */
#define LOGITS_BYTES (16 << 20) /* held at a time, unless a few rows have more */
#define FEWEST_ROWS 128

typedef struct {
    const frnn_cross_entropy_args *args;
    frnn_tasks *tasks;
    int64_t N, I, V, rows, blocks; /* rows at a time, and filled up to whole vectors; blocks of classes */
    int64_t wide;
    FN(matrix) x_columns;  /* packed (I, rows): x^T */
    FN(matrix) x_rows;     /* packed (rows, I): x */
    FN(matrix) logits;     /* packed (V, rows); one block for each member if only losses are wanted */
    FN(matrix) weights[2]; /* packed (WEIGHT_ROWS, I) */
    REAL *tops, *sums;     /* (blocks, wide): each block's largest logit, and sum */
    REAL *top, *ratio;     /* (wide): the largest of all, and share / sum */
    REAL *silent;          /* (wide): 1 where the share is 0 */
    double *target;        /* (wide): the target's logit */
} FN(entropy_run);

static size_t FN(entropy_layout)(FN(entropy_run) *run, int threads, char *base) {
    const int64_t rows = run->rows, wide = run->wide;
    size_t used = 0;
    const int wants = run->args->dx != NULL;
    run->x_columns = FN(take_matrix)(base, &used, 1, run->I, rows);
    run->x_rows = FN(take_matrix)(base, &used, 1, wants ? rows : 0, run->I);
    run->logits = FN(take_matrix)(base, &used, 1, wants ? run->V : threads * (CLASSES + 1), wants ? rows : ROWS);
    for (int i = 0; i < 2; i++) run->weights[i] = FN(take_matrix)(base, &used, 1, wants ? WEIGHT_ROWS : 0, run->I);
    run->tops = FN(take)(base, &used, run->blocks * wide), run->sums = FN(take)(base, &used, run->blocks * wide);
    run->top = FN(take)(base, &used, wide), run->ratio = FN(take)(base, &used, wide);
    run->silent = FN(take)(base, &used, wide);
    run->target = (double *)FN(take)(base, &used, wide * (int64_t)(sizeof(double) / sizeof(REAL)));
    return used;
}

/* R, or its transpose, by members' shares of its columns. */
static void FN(pack_share)(int transposed, int64_t K, int64_t columns, const REAL *from, int64_t ld, FN(matrix) to,
                           const frnn_team *team) {
    const frnn_range mine = frnn_share(columns, FN(lanes)(), team->index, team->size);
    if (mine.first < mine.end)
        frnn_kernels()->KERNELS_OF.packings[STORED_AS_IS].pack(transposed, K, mine.end - mine.first,
                                                               from + mine.first * (transposed ? ld : 1), ld,
                                                               FN(at)(to, 0, mine.first).data, to.vector);
}

/* Step 1 of one task: block `block`, rows n0.. of the `count` that are computed at a time, from row `first` of x. */
static void FN(exponentials)(const FN(entropy_run) *run, int64_t block, int64_t first, int64_t n0, int64_t count,
                             FN(matrix) logits) {
    const KERNELS *kernels = &frnn_kernels()->KERNELS_OF;
    const frnn_cross_entropy_args *args = run->args;
    const int64_t lanes = FN(lanes)(), v0 = block * CLASSES, classes = FRNN_MIN(CLASSES, run->V - v0);
    const int64_t vectors = FN(vectors)(FRNN_MIN(ROWS, count - n0));
    const REAL *bias = args->bias ? (const REAL *)args->bias + v0 : NULL;
    product p = {.rows = classes, .columns = vectors * lanes, .K = run->I, .a_row = run->I, .a_vector = lanes};
    p.A = (const REAL *)args->weight + v0 * run->I, p.R = FN(at)(run->x_columns, 0, n0).data;
    p.stride = run->x_columns.vector, p.C = logits.data, p.ldc = lanes, p.c_vector = logits.vector;
    kernels->packings[STORED_AS_IS].multiply(&p);
    for (int64_t n = n0; n < FRNN_MIN(n0 + ROWS, count); n++) {
        const int64_t v = args->targets[first + n] - v0;
        if (0 <= v && v < classes) run->target[n] = *FN(at)(logits, v, n - n0).data + (bias ? bias[v] : 0);
    }
    for (int64_t i = 0; i < vectors; i++) {
        const int64_t to = block * run->wide + n0 + i * lanes;
        kernels->softmax_exp(classes, bias, logits.data + i * logits.vector, run->tops + to, run->sums + to);
    }
}

/* Step 2 for row n. */
static void FN(combine)(const FN(entropy_run) *run, int64_t first, int64_t n) {
    REAL top = run->tops[n];
    for (int64_t block = 1; block < run->blocks; block++) top = FRNN_MAX(top, run->tops[block * run->wide + n]);
    double sum = 0;
    for (int64_t block = 0; block < run->blocks; block++) {
        const int64_t at = block * run->wide + n;
        sum += (double)run->sums[at] * exp((double)run->tops[at] - (double)top);
    }
    const double share = run->args->shares[first + n];
    run->args->losses[first + n] = log(sum) + (double)top - run->target[n];
    run->top[n] = top, run->ratio[n] = (REAL)(share / sum), run->silent[n] = share == 0;
}

/* Step 3 of one task. */
static void FN(gradients)(const FN(entropy_run) *run, int64_t block, int64_t first, int64_t n0, int64_t count) {
    const int64_t lanes = FN(lanes)(), v0 = block * CLASSES, classes = FRNN_MIN(CLASSES, run->V - v0);
    const int64_t end = FRNN_MIN(n0 + ROWS, count);
    for (int64_t n = n0; n < end; n += lanes)
        frnn_kernels()->KERNELS_OF.softmax_scale(classes, run->tops + block * run->wide + n, run->top + n,
                                                 run->ratio + n, run->silent + n, FN(at)(run->logits, v0, n).data);
    for (int64_t n = n0; n < end; n++) {
        const int64_t v = run->args->targets[first + n];
        if (v0 <= v && v < v0 + classes) *FN(at)(run->logits, v, n).data -= (REAL)run->args->shares[first + n];
    }
}

/* Step 4 of one task: inputs i0.. of a block. */
static void FN(weight_gradients)(const FN(entropy_run) *run, int64_t block, int64_t i0, int64_t count, int first) {
    const KERNELS *kernels = &frnn_kernels()->KERNELS_OF;
    const int64_t v0 = block * CLASSES, classes = FRNN_MIN(CLASSES, run->V - v0);
    const FN(matrix) g = FN(at)(run->logits, v0, 0);
    product p = {.rows = classes, .columns = FRNN_MIN(INPUTS, run->I - i0), .K = count, .beta = !first};
    p.A = g.data, p.a_row = g.row, p.a_vector = g.vector;
    p.R = FN(at)(run->x_rows, 0, i0).data, p.stride = run->x_rows.vector;
    p.C = (REAL *)run->args->dweight + v0 * run->I + i0, p.ldc = run->I, p.c_vector = FN(lanes)();
    kernels->packings[STORED_AS_IS].multiply(&p);
    if (!run->args->dbias || i0 > 0) return;
    REAL *sum = (REAL *)run->args->dbias + v0;
    if (first) memset(sum, 0, (size_t)classes * sizeof(REAL));
    kernels->softmax_add(classes, FN(vectors)(count), g.data, g.vector, sum);
}

/* Step 5. All members pack a piece of W while they multiply with the one before. */
static void FN(input_gradients)(const FN(entropy_run) *run, int64_t first, int64_t count, const frnn_team *team) {
    const int64_t I = run->I, V = run->V, lanes = FN(lanes)();
    const frnn_range mine = frnn_share(count, lanes, team->index, team->size);
    const REAL *weight = run->args->weight;
    REAL *dx = (REAL *)run->args->dx + (first + mine.first) * I;
    for (int64_t v = 0, piece = 0; v - WEIGHT_ROWS < V; v += WEIGHT_ROWS, piece++) {
        if (v < V) FN(pack_share)(0, FRNN_MIN(WEIGHT_ROWS, V - v), I, weight + v * I, I, run->weights[piece % 2], team);
        const int64_t from = v - WEIGHT_ROWS;
        if (from >= 0 && mine.first < mine.end && !frnn_team_stopping(team)) {
            const FN(matrix) g = FN(at)(run->logits, from, mine.first), R = run->weights[(piece + 1) % 2];
            product p = {
                .rows = mine.end - mine.first, .columns = I, .K = FRNN_MIN(WEIGHT_ROWS, V - from), .beta = from > 0};
            p.A = g.data, p.a_vector = g.vector, p.R = R.data, p.stride = R.vector;
            p.C = dx, p.ldc = I, p.c_vector = lanes;
            frnn_kernels()->KERNELS_OF.add_gradient(&p);
        }
        frnn_team_barrier(team);
    }
}

static void FN(entropy_work)(void *context, const frnn_team *team) {
    const FN(entropy_run) *run = context;
    const frnn_cross_entropy_args *args = run->args;
    const int wants = args->dx != NULL;
    frnn_round round = 0;
    for (int64_t first = 0; first < run->N; first += run->rows) {
        const int64_t count = FRNN_MIN(run->rows, run->N - first), I = run->I;
        const int64_t parts = (count + ROWS - 1) / ROWS, panels = (I + INPUTS - 1) / INPUTS;
        const REAL *x = (const REAL *)args->x + first * I;
        FN(pack_share)(1, I, count, x, I, run->x_columns, team);
        if (wants) FN(pack_share)(0, count, I, x, I, run->x_rows, team);
        frnn_team_barrier(team);
        FRNN_FOR_TASKS(task, run->tasks, run->blocks * parts, &round, team) {
            const int64_t block = task / parts, n0 = task % parts * ROWS;
            const int64_t at = wants ? block * CLASSES : team->index * (CLASSES + 1);
            FN(exponentials)(run, block, first, n0, count, FN(at)(run->logits, at, wants ? n0 : 0));
        }
        frnn_team_barrier(team);
        const frnn_range mine = frnn_share(count, FN(lanes)(), team->index, team->size);
        for (int64_t n = mine.first; n < mine.end; n++) FN(combine)(run, first, n);
        if (team->index == 0) /* what fills the last vector */
            for (int64_t n = count; n < FN(vectors)(count) * FN(lanes)(); n++)
                run->top[n] = run->ratio[n] = 0, run->silent[n] = 1;
        frnn_team_barrier(team);
        if (!wants) continue;
        FRNN_FOR_TASKS(task, run->tasks, run->blocks * parts, &round, team)
        FN(gradients)(run, task / parts, first, task % parts * ROWS, count);
        frnn_team_barrier(team);
        FRNN_FOR_TASKS(task, run->tasks, run->blocks * panels, &round, team)
        FN(weight_gradients)(run, task / panels, task % panels * INPUTS, count, first == 0);
        FN(input_gradients)(run, first, count, team);
    }
}

static FN(entropy_run) FN(entropy_new)(const frnn_cross_entropy_args *args) {
    FN(entropy_run) run = {.args = args, .N = args->N, .I = args->I, .V = args->V};
    const int64_t lanes = FN(lanes)(), fit = LOGITS_BYTES / ((int64_t)sizeof(REAL) * args->V);
    run.rows = FRNN_MIN(run.N, args->dx ? FRNN_MAX(FEWEST_ROWS, fit / lanes * lanes) : 16 * ROWS);
    run.wide = FN(vectors)(run.rows) * lanes;
    run.blocks = (run.V + CLASSES - 1) / CLASSES;
    return run;
}

int64_t FN(frnn_cross_entropy_workspace)(const frnn_cross_entropy_args *args, int threads) {
    FN(entropy_run) run = FN(entropy_new)(args);
    return (int64_t)FN(entropy_layout)(&run, threads, NULL);
}

void FN(frnn_cross_entropy)(const frnn_cross_entropy_args *args, int threads, void *workspace) {
    frnn_tasks tasks = {0};
    FN(entropy_run) run = FN(entropy_new)(args);
    run.tasks = &tasks;
    FN(entropy_layout)(&run, threads, workspace);
    const double operations = (args->dx ? 6.0 : 2.0) * (double)args->N * (double)args->I * (double)args->V;
    frnn_team_run(threads, FN(product_time)(operations), FN(entropy_work), &run);
}

#undef CLASSES
#undef ROWS
#undef INPUTS
#undef WEIGHT_ROWS
#undef LOGITS_BYTES
#undef FEWEST_ROWS
