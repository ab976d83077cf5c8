/* A sequence forwards, for one dtype. Included by blas_f32.c and blas_f64.c.
 *
 * In chunks of steps: (1) gather the valid rows of x, (2) project them with one product, (3) step by step, one product
 * with the state for all gates together, then the gate kernel row by row.
 */

typedef struct {
    const frnn_cell *cell;
    const frnn_forward_args *args;
    const KERNELS *kernels;
    frnn_plan plan;
    int by_units;
    REAL *bias; /* (G or G+1, H): see frnn_forward_row */
    REAL *x;    /* (chunk rows, I) gathered; unused where x itself is one block */
    REAL *xw;   /* (chunk rows, G*H) */
    REAL *hu;   /* (block rows, G*H) */
    REAL *h[2]; /* (block rows, O): step s reads h[s % 2] and writes the other */
    REAL *c;    /* (block rows, H) LSTM */
    REAL *m;    /* (block rows, H) LSTM: o*tanh(c) before projection */
    REAL *rz;   /* (block rows, 2*H) GRU before, when nothing is recorded */
    REAL *rh;   /* (block rows, H) GRU before */
} FN(forward_run);

/* Lay out the workspace; with base null only its size counts. */
static size_t FN(forward_layout)(FN(forward_run) *run, char *base) {
    const frnn_cell *cell = run->cell;
    const frnn_plan *plan = &run->plan;
    const int64_t GH = frnn_gates(cell) * cell->H, lstm = cell->kind == FRNN_LSTM, before = cell->kind == FRNN_GRU_BEFORE;
    size_t used = 0;
    run->bias = FN(take)(base, &used, GH + cell->H);
    run->x = FN(take)(base, &used, plan->direct ? 0 : plan->chunk_rows * cell->I);
    run->xw = FN(take)(base, &used, plan->chunk_rows * GH);
    run->hu = FN(take)(base, &used, plan->block_rows * GH);
    run->h[0] = FN(take)(base, &used, plan->block_rows * cell->O);
    run->h[1] = FN(take)(base, &used, plan->block_rows * cell->O);
    run->c = FN(take)(base, &used, lstm ? plan->block_rows * cell->H : 0);
    run->m = FN(take)(base, &used, cell->w_hr ? plan->block_rows * cell->H : 0);
    run->rz = FN(take)(base, &used, before ? plan->block_rows * 2 * cell->H : 0);
    run->rh = FN(take)(base, &used, before ? plan->block_rows * cell->H : 0);
    return used;
}

/* b_ih + b_hh; for a GRU that resets after, b_in and b_hn apart. */
static void FN(combine_bias)(const FN(forward_run) *run) {
    const frnn_cell *cell = run->cell;
    const int64_t GH = frnn_gates(cell) * cell->H;
    const REAL *b_ih = cell->b_ih, *b_hh = cell->b_hh;
    for (int64_t k = 0; k < GH; k++) run->bias[k] = b_ih ? b_ih[k] + b_hh[k] : 0;
    if (cell->kind == FRNN_GRU_AFTER)
        for (int64_t k = 2 * cell->H; k < GH; k++) {
            run->bias[k] = b_ih ? b_ih[k] : 0;
            run->bias[k + cell->H] = b_hh ? b_hh[k] : 0;
        }
}

static void FN(start_states)(const FN(forward_run) *run, int64_t j0, int64_t j1, const frnn_team *team) {
    const frnn_steps *s = &run->args->steps;
    const int64_t O = run->cell->O, H = run->cell->H;
    for (int64_t j = j0 + team->index; j < j1; j += team->size) {
        const int64_t b = frnn_row(s, j), at = j - j0;
        const int cut = !s->reverse && frnn_length(s, b) > 0 && frnn_cut_before(s, 0, b);
        FN(copy_or_clear)(run->h[0] + at * O, cut ? NULL : (const REAL *)run->args->h0 + b * O, O);
        memcpy(run->h[1] + at * O, run->h[0] + at * O, (size_t)O * sizeof(REAL));
        if (run->c) FN(copy_or_clear)(run->c + at * H, cut ? NULL : (const REAL *)run->args->c0 + b * H, H);
    }
}

static void FN(finish_states)(const FN(forward_run) *run, int64_t j0, int64_t j1, int64_t longest, const frnn_team *team) {
    const frnn_steps *s = &run->args->steps;
    const int64_t O = run->cell->O, H = run->cell->H;
    for (int64_t j = j0 + team->index; j < j1; j += team->size) {
        const int64_t b = frnn_row(s, j), at = j - j0, length = frnn_length(s, b);
        /* upwards a row stops after `length` steps of the block; downwards all end together */
        const REAL *h = run->h[(length == 0 ? 0 : s->reverse ? longest : length) % 2];
        memcpy((REAL *)run->args->h_n + b * O, h + at * O, (size_t)O * sizeof(REAL));
        if (run->c) memcpy((REAL *)run->args->c_n + b * H, run->c + at * H, (size_t)H * sizeof(REAL));
    }
}

static void FN(clear_past_ends)(const FN(forward_run) *run, const frnn_team *team) {
    const frnn_steps *s = &run->args->steps;
    if (!s->lengths) return;
    for (int64_t b = team->index; b < s->B; b += team->size)
        for (int64_t t = s->lengths[b]; t < s->T; t++)
            memset(FN(series_at)(&run->args->y, t, b), 0, (size_t)run->cell->O * sizeof(REAL));
}

/* xw = x W^T for all rows of a chunk, each thread a share of the rows, or of the columns where rows are few. */
static void FN(project)(const FN(forward_run) *run, const frnn_chunk *chunk, const frnn_team *team) {
    const frnn_cell *cell = run->cell;
    const int64_t I = cell->I, GH = frnn_gates(cell) * cell->H, rows = frnn_chunk_rows(chunk);
    const REAL *x = run->plan.direct ? FN(series_at)(&run->args->x, chunk->low, 0) : run->x;
    if (rows >= 16 * team->size) {
        const frnn_range part = frnn_share(rows, 1, team->index, team->size);
        GEMM(0, 1, part.end - part.first, GH, I, x + part.first * I, I, cell->w_ih, I, 0, run->xw + part.first * GH, GH);
    } else {
        const frnn_range part = frnn_share(GH, 16, team->index, team->size);
        GEMM(0, 1, rows, part.end - part.first, I, x, I, (const REAL *)cell->w_ih + part.first * I, I, 0,
             run->xw + part.first, GH);
    }
}

/* hu = h U^T for gate blocks k0..k1-1 of this thread's units, for `rows` of its rows. */
static void FN(recur)(const FN(forward_run) *run, const frnn_part *part, int64_t rows, const REAL *h, int64_t width,
                      int k0, int k1) {
    const frnn_cell *cell = run->cell;
    const int64_t H = cell->H, GH = frnn_gates(cell) * H, units = part->units.end - part->units.first;
    const REAL *A = h + part->row_first * width, *U = cell->w_hh;
    REAL *C = run->hu + part->row_first * GH;
    const int64_t lda = part->row_step * width, ldc = part->row_step * GH;
    if (units == H) {
        GEMM(0, 1, rows, (k1 - k0) * H, width, A, lda, U + k0 * H * width, width, 0, C + k0 * H, ldc);
    } else {
        for (int k = k0; k < k1; k++) {
            const int64_t at = k * H + part->units.first;
            GEMM(0, 1, rows, units, width, A, lda, U + at * width, width, 0, C + at, ldc);
        }
    }
}

static void FN(forward_step)(const FN(forward_run) *run, const frnn_part *part, int64_t j0, int64_t s, int64_t t,
                             int64_t n, const REAL *xw, const frnn_team *team) {
    const frnn_cell *cell = run->cell;
    const frnn_forward_args *args = run->args;
    const frnn_steps *steps = &args->steps;
    const int64_t H = cell->H, O = cell->O, G = frnn_gates(cell), u0 = part->units.first;
    const int64_t rows = frnn_part_rows(part, n), K = cell->kind == FRNN_LSTM || cell->kind == FRNN_GRU_AFTER ? 4 : 3;
    const REAL *h_prev = run->h[s % 2];
    REAL *h_next = run->h[1 - s % 2];
    const int before = cell->kind == FRNN_GRU_BEFORE;

    ROW(forward) row = {.n = part->units.end - u0, .H = H, .replace = cell->replace, .bias = run->bias + u0};
    if (cell->peephole) row.peephole = (const REAL *)cell->peephole + u0;

    FN(recur)(run, part, rows, h_prev, O, 0, before ? 2 : (int)G);
    if (before) {
        for (int64_t j = part->row_first; j < n; j += part->row_step) {
            const int64_t b = frnn_row(steps, j0 + j);
            REAL *gates = (REAL *)args->record.gates;
            row.xw = xw + j * G * H + u0, row.hu = run->hu + j * G * H + u0;
            row.r = gates ? gates + (t * steps->B + b) * K * H + u0 : run->rz + j * 2 * H + u0;
            row.z = row.r + H;
            row.h_prev = h_prev + j * O + u0, row.rh = run->rh + j * H + u0;
            run->kernels->gru_before_reset_forward(&row);
        }
        if (part->by_units) frnn_team_barrier(team); /* U_n needs all of r*h */
        FN(recur)(run, part, rows, run->rh, H, 2, 3);
    }
    for (int64_t j = part->row_first; j < n; j += part->row_step) {
        const int64_t b = frnn_row(steps, j0 + j), at = (t * steps->B + b) * H + u0;
        row.xw = xw + j * G * H + u0, row.hu = run->hu + j * G * H + u0;
        row.h_prev = h_prev + j * O + u0;
        row.h = cell->w_hr ? run->m + j * H + u0 : h_next + j * O + u0;
        row.y = cell->w_hr ? NULL : FN(series_at)(&args->y, t, b) + u0;
        if (run->c) row.c = run->c + j * H + u0, row.c_prev = row.c;
        if (args->record.gates) row.gates = (REAL *)args->record.gates + (t * steps->B + b) * K * H + u0;
        if (args->record.cells) row.cells = (REAL *)args->record.cells + at;
        if (before) row.z = row.gates ? row.gates + H : run->rz + j * 2 * H + H + u0;
        switch (cell->kind) {
        case FRNN_RNN_TANH: run->kernels->rnn_tanh_forward(&row); break;
        case FRNN_RNN_RELU: run->kernels->rnn_relu_forward(&row); break;
        case FRNN_LSTM: run->kernels->lstm_forward(&row); break;
        case FRNN_GRU_AFTER: run->kernels->gru_after_forward(&row); break;
        case FRNN_GRU_BEFORE: run->kernels->gru_before_forward(&row); break;
        }
    }
    const int64_t o0 = part->outputs.first, outputs = part->outputs.end - o0;
    if (cell->w_hr) {
        if (part->by_units) frnn_team_barrier(team); /* the projection needs all of m */
        GEMM(0, 1, rows, outputs, H, run->m + part->row_first * H, part->row_step * H, (const REAL *)cell->w_hr + o0 * H,
             H, 0, h_next + part->row_first * O + o0, part->row_step * O);
    }
    if (cell->w_hr || steps->resets)
        for (int64_t j = part->row_first; j < n; j += part->row_step) {
            const int64_t b = frnn_row(steps, j0 + j);
            if (cell->w_hr)
                memcpy(FN(series_at)(&args->y, t, b) + o0, h_next + j * O + o0, (size_t)outputs * sizeof(REAL));
            if (frnn_cut_after(steps, t, b)) {
                memset(h_next + j * O + o0, 0, (size_t)outputs * sizeof(REAL));
                if (run->c) memset(run->c + j * H + u0, 0, (size_t)row.n * sizeof(REAL));
            }
        }
    if (part->by_units) frnn_team_barrier(team); /* the next step reads all of h */
}

static void FN(forward_work)(void *context, const frnn_team *team) {
    const FN(forward_run) *run = context;
    const frnn_cell *cell = run->cell;
    const frnn_steps *steps = &run->args->steps;
    const frnn_part part = frnn_part_of(cell, run->by_units, team->index, team->size);
    const int64_t GH = frnn_gates(cell) * cell->H;
    frnn_chunk chunk;
    if (team->index == 0) FN(combine_bias)(run);
    for (int64_t j0 = 0; j0 < steps->B; j0 += run->plan.block_rows) {
        const int64_t j1 = FRNN_MIN(j0 + run->plan.block_rows, steps->B);
        const int64_t longest = frnn_length(steps, frnn_row(steps, j0));
        FN(start_states)(run, j0, j1, team);
        for (int64_t s0 = 0; s0 < longest; s0 += run->plan.chunk_steps) {
            const int64_t s1 = FRNN_MIN(s0 + run->plan.chunk_steps, longest);
            frnn_chunk_fill(&chunk, steps, j0, j1, steps->reverse ? longest - s1 : s0, steps->reverse ? longest - s0 : s1);
            if (!run->plan.direct) {
                FN(gather)(&run->args->x, steps, &chunk, j0, cell->I, run->x, team);
                frnn_team_barrier(team);
            }
            FN(project)(run, &chunk, team);
            frnn_team_barrier(team);
            for (int64_t s = s0; s < s1; s++) {
                const int64_t t = steps->reverse ? longest - 1 - s : s, at = chunk.offset[t - chunk.low];
                FN(forward_step)(run, &part, j0, s, t, chunk.offset[t - chunk.low + 1] - at, run->xw + at * GH, team);
            }
            frnn_team_barrier(team); /* xw is free for the next chunk */
        }
        frnn_team_barrier(team);
        FN(finish_states)(run, j0, j1, longest, team);
        frnn_team_barrier(team); /* h and c are free for the next block */
    }
    FN(clear_past_ends)(run, team);
}

static FN(forward_run) FN(forward_new)(const frnn_cell *cell, const frnn_forward_args *args) {
    FN(forward_run) run = {.cell = cell, .args = args, .kernels = &frnn_kernels()->KERNELS_OF};
    run.plan = frnn_forward_plan(cell, args, sizeof(REAL));
    return run;
}

size_t FN(frnn_blas_forward_workspace)(const frnn_cell *cell, const frnn_forward_args *args) {
    FN(forward_run) run = FN(forward_new)(cell, args);
    return FN(forward_layout)(&run, NULL);
}

void FN(frnn_blas_forward)(const frnn_cell *cell, const frnn_forward_args *args, int threads, void *workspace) {
    FN(forward_run) run = FN(forward_new)(cell, args);
    FN(forward_layout)(&run, workspace);
    threads = frnn_gemm_begin(frnn_worthwhile(cell, &args->steps, threads, &run.by_units));
    frnn_team_run(threads, FN(forward_work), &run);
    frnn_gemm_end();
}
