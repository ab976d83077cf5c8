/* A step of a search, for one dtype of logits. Included by training_body.h. */

#define GREEDY_BLOCK 512 /* logits whose largest is found before its place is */
#define DRAW_BLOCK 256   /* probabilities that are summed at a time */
#define BEAM_BLOCK 64    /* logits whose largest is compared first */

typedef struct {
    const frnn_logits *logits;
    double temperature;
    const double *uniforms;
    const frnn_beam_args *beam;
    int64_t *ids;
    double *rows; /* a member's each */
} FN(search_run);

/* In doubles: a row, and a number for each of its blocks. */
static int64_t FN(search_room)(int64_t V) { return V + V / FRNN_MIN(DRAW_BLOCK, BEAM_BLOCK) + 1; }

static const REAL *FN(logits_of)(const frnn_logits *logits, int64_t row) {
    return (const REAL *)logits->logits + row * logits->V;
}

static void FN(widen)(const frnn_logits *logits, int64_t row, double *x) {
    frnn_kernels()->KERNELS_OF.widen(logits->V, FN(logits_of)(logits, row), x);
}

static void FN(rule_out)(const frnn_logits *logits, double *x) {
    for (int64_t i = 0; i < logits->bans; i++) x[logits->banned[i]] = -INFINITY;
}

/* About how many nanoseconds `values` take one thread. */
static int64_t FN(search_time)(const frnn_logits *logits, double each) {
    return (int64_t)(each * (double)logits->rows * (double)logits->V);
}

int64_t FN(frnn_search_workspace)(const frnn_logits *logits, int threads) {
    return threads * FN(search_room)(logits->V) * (int64_t)sizeof(double);
}

/* ---- Greedy ---- */

static int64_t FN(greedy_row)(const frnn_logits *logits, int64_t row) {
    const REAL *x = FN(logits_of)(logits, row);
    REAL top = 0;
    int64_t found = -1; /* where the block begins that has the largest so far */
    for (int64_t i = 0, from = 0; i <= logits->bans; i++, from++) { /* between banned ids */
        const int64_t end = i < logits->bans ? logits->banned[i] : logits->V;
        for (; from < end && top == top; from = FRNN_MIN(from + GREEDY_BLOCK, end)) {
            const REAL most = frnn_kernels()->KERNELS_OF.largest(FRNN_MIN(GREEDY_BLOCK, end - from), x + from);
            if (found < 0 || !(most <= top)) found = from, top = most;
        }
        from = end;
    }
    if (found < 0) return 0;
    while (top == top ? x[found] != top : x[found] == x[found]) found++;
    return found;
}

static void FN(greedy_work)(void *context, const frnn_team *team) {
    const FN(search_run) *run = context;
    const frnn_range mine = frnn_share(run->logits->rows, 1, team->index, team->size);
    for (int64_t row = mine.first; row < mine.end; row++) run->ids[row] = FN(greedy_row)(run->logits, row);
}

void FN(frnn_greedy)(const frnn_logits *logits, int64_t *ids, int threads) {
    FN(search_run) run = {.logits = logits, .ids = ids};
    frnn_team_run(threads, FN(search_time)(logits, 0.1), FN(greedy_work), &run);
}

/* ---- Sampling ---- */

/* The first id at which the probabilities' sum is more than `uniform` of all. */
static int64_t FN(draw_row)(const FN(search_run) *run, int64_t row, double *x) {
    const int64_t V = run->logits->V, blocks = (V + DRAW_BLOCK - 1) / DRAW_BLOCK;
    const frnn_kernels_f64 *kernels = &frnn_kernels()->f64;
    const double scale = FRNN_MIN(1 / run->temperature, DBL_MAX);
    double *sums = x + V, all = 0, below = 0, next = 0;
    FN(widen)(run->logits, row, x);
    FN(rule_out)(run->logits, x);
    const double top = kernels->largest(V, x);
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t v = i * DRAW_BLOCK;
        sums[i] = kernels->exponentials(FRNN_MIN(DRAW_BLOCK, V - v), x + v, top, scale, x + v);
        all += sums[i];
    }
    if (!(all > 0)) return 0;
    const double place = run->uniforms[row] * all;
    int64_t block = 0, found = 0; /* the last one that has any, if the sums round to less than `place` */
    for (int64_t i = 0; i < blocks && next <= place; i++)
        if (sums[i] > 0) block = i, below = next, next += sums[i];
    for (int64_t v = block * DRAW_BLOCK; v < FRNN_MIN((block + 1) * DRAW_BLOCK, V) && below <= place; v++)
        if (x[v] > 0) found = v, below += x[v];
    return found;
}

static void FN(draw_work)(void *context, const frnn_team *team) {
    const FN(search_run) *run = context;
    double *x = run->rows + team->index * FN(search_room)(run->logits->V);
    const frnn_range mine = frnn_share(run->logits->rows, 1, team->index, team->size);
    for (int64_t row = mine.first; row < mine.end; row++) run->ids[row] = FN(draw_row)(run, row, x);
}

void FN(frnn_draw)(const frnn_logits *logits, double temperature, const double *uniforms, int64_t *ids, int threads,
                   void *workspace) {
    FN(search_run) run = {.logits = logits, .temperature = temperature, .uniforms = uniforms};
    run.ids = ids, run.rows = workspace;
    frnn_team_run(threads, FN(search_time)(logits, 2), FN(draw_work), &run);
}

/* ---- Beams ---- */

/* Puts a way to go on, number `way`, among the `width` best of a group, of which there are `count`; NaN as -infinity.
 * Returns how many there are then. */
static int64_t FN(enter)(const frnn_beam_args *args, int64_t group, int64_t count, double score, int64_t way) {
    double *best = args->best + group * args->width;
    int64_t *ways = args->ids + group * args->width;
    if (score != score) score = -INFINITY;
    if (count == args->width && !(score > best[--count])) return args->width;
    int64_t at = count;
    for (; at > 0 && score > best[at - 1]; at--) best[at] = best[at - 1], ways[at] = ways[at - 1];
    best[at] = score, ways[at] = way;
    return count + 1;
}

static void FN(beam_group)(const frnn_beam_args *args, int64_t group, double *x) {
    const frnn_kernels_f64 *kernels = &frnn_kernels()->f64;
    const int64_t V = args->logits.V, width = args->width;
    double *best = args->best + group * width;
    int64_t count = 0, *ways = args->ids + group * width;
    for (int64_t w = 0; w < width; w++) {
        const int64_t row = group * width + w;
        const double score = args->scores[row];
        if (args->done[row]) {
            count = FN(enter)(args, group, count, score, w * V + args->stop);
            continue;
        }
        double *tops = x + V;
        FN(widen)(&args->logits, row, x);
        for (int64_t v = 0; v < V; v += BEAM_BLOCK)
            tops[v / BEAM_BLOCK] = kernels->largest(FRNN_MIN(BEAM_BLOCK, V - v), x + v);
        const double top = kernels->largest((V + BEAM_BLOCK - 1) / BEAM_BLOCK, tops);
        const double log_sum = log(kernels->exponentials(V, x, top, 1, NULL));
        FN(rule_out)(&args->logits, x);
        for (int64_t first = 0; first < V; first += BEAM_BLOCK) {
            const int64_t end = FRNN_MIN(first + BEAM_BLOCK, V);
            const double most = score + ((tops[first / BEAM_BLOCK] - top) - log_sum); /* of banned ones, too */
            if (count == width && !(most > best[width - 1])) continue;
            for (int64_t v = first; v < end; v++)
                count = FN(enter)(args, group, count, score + ((x[v] - top) - log_sum), w * V + v);
        }
    }
    for (; count < width; count++) best[count] = -INFINITY, ways[count] = args->stop;
    for (int64_t w = 0; w < width; w++) args->parents[group * width + w] = ways[w] / V, ways[w] %= V;
}

static void FN(beam_work)(void *context, const frnn_team *team) {
    const FN(search_run) *run = context;
    double *x = run->rows + team->index * FN(search_room)(run->logits->V);
    const frnn_range mine = frnn_share(run->logits->rows / run->beam->width, 1, team->index, team->size);
    for (int64_t group = mine.first; group < mine.end; group++) FN(beam_group)(run->beam, group, x);
}

void FN(frnn_beam)(const frnn_beam_args *args, int threads, void *workspace) {
    FN(search_run) run = {.logits = &args->logits, .beam = args, .rows = workspace};
    frnn_team_run(threads, FN(search_time)(&args->logits, 2), FN(beam_work), &run);
}

#undef GREEDY_BLOCK
#undef DRAW_BLOCK
#undef BEAM_BLOCK
