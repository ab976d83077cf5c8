/* A sequence backwards, for one dtype. Included by sequence_body.h.
 *
 * In chunks of steps, from the one that ran last to the first, and in each chunk one block of rows after the other: (1)
 * step by step, the cell's kernel turns dh into the gradient da of the pre-activations, and one product takes da to the
 * state before; (2) the rows of x and h_{t-1} are gathered beside the rows of da, and large products over all of them
 * add to dx, dW and dU. So a run that is cut between two chunks, and goes on with adds_to_dcell, gives the same bits.
 *
 * The large products are cut into tasks in a way that does not depend on the number of threads. A task adds the same
 * numbers in the same order, whichever thread runs it.
 */

typedef struct {
    const frnn_cell *cell;
    const frnn_backward_args *args;
    const CELL_KERNELS *kernels;
    const frnn_description *is; /* the cell's */
    frnn_plan plan;
    int by_units;
    FN(factors) factors;
    int64_t blocks;    /* of pre-activations in a row of da */
    int64_t plane;     /* from block to block of da, in columns */
    REAL *zero;        /* (max(O, S*H)) zeros: the state after a reset */
    FN(matrix) da;     /* (chunk rows, blocks*plane) */
    FN(matrix) x;      /* (chunk rows, I) gathered; unused where BLAS takes x itself */
    FN(matrix) h;      /* (chunk rows, O) gathered h_{t-1}; unused where gates do not see it */
    FN(matrix) rh;     /* (chunk rows, H) r*h_{t-1} of a cell that resets before a product */
    FN(matrix) dh_out; /* (chunk rows, O) dh_t of a projected cell */
    FN(matrix) m;      /* (chunk rows, H) what was projected */
    REAL *dx;          /* (chunk rows, I); null where dx is written in place, or not wanted */
    REAL *dh;          /* (block rows, O) */
    REAL *dc;          /* (block rows, S, H), if the cell has c */
    REAL *dm;          /* (block rows, H) the gradient of m, or of r*h_{t-1} */
    FN(norms) norm;
    FN(noise) noise;
    int64_t span, span_plane;  /* units that lie side by side in da and h, and columns that they take there */
    FN(frnn_backward_row) row; /* of the kernels: what is the same for all rows */
} FN(backward_run);

/* Of da, and of h, where a unit is in its block. */
static inline int64_t FN(column)(const FN(backward_run) *run, int64_t u) {
    return run->span < run->cell->H ? u / run->span * run->span_plane + u % run->span : u;
}

/* Zeros that there have to be. */
static inline int64_t FN(zeros)(const FN(backward_run) *run) {
    return FRNN_MAX(FRNN_MAX(run->cell->H, run->cell->O), run->is->has_c * run->cell->H);
}

/* How a kernel knows a clipped argument: by its activation, which is then what it is at the bound. A few roundings are
 * allowed for. */
static void FN(find_bounds)(FN(backward_run) *run) {
    const REAL clip = (REAL)run->cell->clip, less = 1 - (sizeof(REAL) == 4 ? (REAL)5e-7 : (REAL)1e-15);
    FN(frnn_backward_row) *row = &run->row;
    if (clip == 0) return;
    frnn_kernels()->KERNELS_OF.sigmoid(1, &clip, &row->most_sigmoid);
    frnn_kernels()->KERNELS_OF.tanh(1, &clip, &row->most_tanh);
    row->clip = clip, row->most_relu = clip * less;
    row->most_sigmoid = (row->most_sigmoid - (REAL)0.5) * less, row->most_tanh *= less;
}

/* Is dx written where it belongs? If it is added to, it is computed apart: so its bits do not depend on whether the
 * directions run at once. */
static int FN(dx_in_place)(const FN(backward_run) *run) {
    return !run->args->dx.data || (run->plan.direct && !run->args->adds_to_dx);
}

static size_t FN(backward_layout)(FN(backward_run) *run, int members, char *base) {
    const frnn_cell *cell = run->cell;
    const int64_t chunk = run->plan.chunk_rows, block = run->plan.block_rows, H = cell->H;
    const int resets = run->is->reset > 0, projected = cell->w_hr != NULL, packed = cell->packed != NULL;
    size_t used = 0;
    run->zero = FN(take)(base, &used, FN(zeros)(run));
    const int normal = FN(norm_raw)(&run->norm) + (cell->norm.c != NULL); /* blocks more */
    run->da = FN(take_matrix)(base, &used, packed, chunk, (run->blocks + normal) * run->plane);
    run->x = FN(take_matrix)(base, &used, packed, run->plan.direct && !packed ? 0 : chunk, cell->I);
    const int64_t seen = run->is->unconnected ? 0 : chunk;
    run->h = FN(take_matrix)(base, &used, packed, seen, run->span < H ? run->plane : cell->O);
    run->rh = FN(take_matrix)(base, &used, packed, resets ? chunk : 0, H);
    run->dh_out = FN(take_matrix)(base, &used, packed, projected ? chunk : 0, cell->O);
    run->m = FN(take_matrix)(base, &used, packed, projected ? chunk : 0, H);
    run->dx = FN(take)(base, &used, FN(dx_in_place)(run) ? 0 : chunk * cell->I);
    run->dh = FN(take)(base, &used, block * cell->O);
    run->dc = FN(take)(base, &used, block * run->is->has_c * H);
    run->dm = FN(take)(base, &used, resets || projected ? block * H : 0);
    FN(norm_backward_layout)(&run->norm, base, &used, &run->plan, members);
    FN(noise_layout)(&run->noise, block, 1, base, &used);
    return used;
}

/* Row b's `n` values of a state before step t: zeros after a reset, the initial ones at its first step, else those that
 * `states` holds for the step run before. */
static const REAL *FN(before_step)(const FN(backward_run) *run, const frnn_series *states, const void *initial,
                                   int64_t n, int64_t t, int64_t b) {
    const frnn_steps *s = &run->args->steps;
    if (frnn_cut_before(s, t, b)) return run->zero;
    if (frnn_first(s, t, b)) return (const REAL *)initial + b * n;
    return FN(series_at)(s, states, s->reverse ? t + 1 : t - 1, b);
}

/* What a tape has of each step and row, n values. */
static frnn_series FN(kept_series)(const FN(backward_run) *run, void *data, int64_t n) {
    const frnn_steps *s = &run->args->steps;
    return (frnn_series){data, s->starts ? n : s->B * n, n};
}

static frnn_series FN(cells_series)(const FN(backward_run) *run) {
    return FN(kept_series)(run, run->args->record.cells, run->is->has_c * run->cell->H);
}

/* c_t before zoneout. */
static frnn_series FN(fresh_cells)(const FN(backward_run) *run) {
    return run->noise.zones_c ? FN(kept_series)(run, run->args->record.fresh, run->cell->H) : FN(cells_series)(run);
}

/* C's columns = beta*C + da[blocks b0..b1-1] U[those blocks] in step t, for `rows` of this member's rows; C (rows, O)
 */
static void FN(return_through)(const FN(backward_run) *run, const frnn_part *part, int64_t rows, int64_t t, int64_t at,
                               int b0, int b1, int beta, REAL *C) {
    const int64_t O = run->cell->O;
    if (run->is->unconnected) return;
    const FN(matrix) da = FN(every)(FN(at)(run->da, at + part->row_first, b0 * run->plane), part->row_step);
    if (run->factors.state.heads > 1) {
        FN(return_through_heads)(&run->factors.state, rows, da, run->plane, FN(column)(run, run->factors.state.N),
                                 part->outputs, C + part->row_first * O, part->row_step * O, t % 2);
        return;
    }
    FN(multiply)(&run->factors.state, rows, da, b0, b1, 0, 1, part->outputs.first, part->outputs.end, beta,
                 C + part->row_first * O, part->row_step * O, O, t % 2, NULL);
}

static void FN(backward_step)(const FN(backward_run) *run, const frnn_part *part, int64_t j0, int64_t t, int64_t at,
                              int64_t n, const frnn_team *team) {
    const frnn_cell *cell = run->cell;
    const frnn_backward_args *args = run->args;
    const frnn_steps *steps = &args->steps;
    const int64_t H = cell->H, O = cell->O, u0 = part->units.first, o0 = part->outputs.first;
    const int64_t rows = frnn_part_rows(part, n), outputs = part->outputs.end - o0;
    const int64_t own = FN(norm_raw)(&run->norm) * run->plane + FN(column)(run, u0); /* where the kernels' da begins */
    const int64_t K = run->is->recorded, C = run->is->has_c * H;
    const int G = run->is->gates, early = G - run->is->reset; /* gates that came from h itself */
    const frnn_series cells = FN(cells_series)(run), fresh = FN(fresh_cells)(run);
    frnn_series dys = args->dy, hs = args->y;
    n = FRNN_MIN(n, part->row_end);

    if (run->noise.zones_h || run->noise.zones_c) FN(unzone_step)(&run->noise, part, j0, t, n, &dys, run->dh, run->dc);
    if (run->noise.zones_h) {
        dys.data = NULL; /* it is in dh now */
        if (run->is->reads_h) hs = FN(kept_series)(run, args->record.fresh, H);
    }

    if (cell->w_hr) { /* h = W_hr m */
        for (int64_t j = part->row_first; j < n; j += part->row_step) {
            REAL *dh = run->dh + j * O + o0;
            const REAL *dy = dys.data ? FN(series_at)(steps, &dys, t, frnn_row(steps, j0 + j)) + o0 : NULL;
            for (int64_t k = 0; dy && k < outputs; k++) dh[k] += dy[k];
            FN(put)(run->dh_out, at + j, o0, outputs, dh);
        }
        if (part->by_units) frnn_team_barrier(team); /* dm needs all of dh */
        const FN(matrix) dh_out = FN(every)(FN(at)(run->dh_out, at + part->row_first, 0), part->row_step);
        FN(multiply)(&run->factors.projection, rows, dh_out, 0, 1, 0, 1, u0, part->units.end, 0,
                     run->dm + part->row_first * H, part->row_step * H, H, t % 2, NULL);
    }

    FN(frnn_backward_row) row = run->row;
    row.n = part->units.end - u0;
    row.plane = FN(at)(run->da, 0, run->plane).data - run->da.data, row.vector = run->da.vector;
    row.shows_o = cell->norm.c != NULL;
    if (row.shows_o)
        FN(normalize_cells_backward)(&run->norm, part, args, &dys, j0, t, at, n, run->da, run->is,
                                     cell->w_hr ? run->dm : run->dh, cell->w_hr ? H : O, run->dc, team);
    if (cell->peephole) row.peephole = (const REAL *)cell->peephole + u0;
    for (int64_t j = part->row_first; j < n; j += part->row_step) {
        const int64_t b = frnn_row(steps, j0 + j);
        row.da = FN(at)(run->da, at + j, own).data;
        row.dh = cell->w_hr ? run->dm + j * H + u0 : run->dh + j * O + u0;
        row.dy = dys.data && !cell->w_hr && !row.shows_o ? FN(series_at)(steps, &dys, t, b) + u0 : NULL;
        if (args->record.gates) row.gates = (const REAL *)args->record.gates + frnn_place(steps, t, b) * K * H + u0;
        if (run->is->has_c) {
            row.dc = run->dc + j * C + u0;
            row.c = FN(series_at)(steps, &fresh, t, b) + u0;
            row.c_prev = FN(before_step)(run, &cells, args->c0, C, t, b) + u0;
        }
        if (run->is->reads_h) row.h = FN(series_at)(steps, &hs, t, b) + u0;
        if (run->is->reads_h_prev) row.h_prev = FN(before_step)(run, &args->y, args->h0, O, t, b) + u0;
        if (run->noise.noise) row.mask = FN(candidate_mask)(&run->noise, j, t, b, part->units);
        if (run->span < H)
            FN(backward_row)(run->kernels, run->span, FN(at)(run->da, 0, run->span_plane).data - run->da.data, row);
        else
            run->kernels->backward(&row);
    }
    if (run->norm.wanted)
        FN(normalize_step_backward)(&run->norm, part, args, j0, t, at, n, run->da, early < G ? early : 0, G, team);
    if (part->by_units && !run->is->unconnected) frnn_team_barrier(team); /* dh needs all of da */

    if (early < G) {
        FN(return_through)(run, part, rows, t, at, early, G, 0, run->dm);
        for (int64_t j = part->row_first; j < n; j += part->row_step) {
            const int64_t b = frnn_row(steps, j0 + j);
            const REAL *mask = FN(state_mask)(&run->noise, b);
            for (int64_t u = u0; mask && u < part->units.end; u++) run->dm[j * H + u] *= mask[u];
            row.da = FN(at)(run->da, at + j, own).data, row.dh = run->dh + j * H + u0, row.drh = run->dm + j * H + u0;
            row.gates = (const REAL *)args->record.gates + frnn_place(steps, t, b) * K * H + u0;
            row.h_prev = FN(before_step)(run, &args->y, args->h0, O, t, b) + u0;
            run->kernels->reset_backward(&row);
        }
        if (run->norm.wanted)
            FN(normalize_step_backward)(&run->norm, part, args, j0, t, at, n, run->da, 0, early, team);
        if (part->by_units) frnn_team_barrier(team); /* dh needs all of da_r */
    }
    if (run->noise.through)
        FN(return_through)(run, part, rows, t, at, 0, early, 0, run->noise.through);
    else
        FN(return_through)(run, part, rows, t, at, 0, early, run->is->around, run->dh);
    if (run->noise.noise) FN(rejoin)(&run->noise, part, j0, n, run->is->around, run->dh, run->dc);
    if (steps->resets)
        for (int64_t j = part->row_first; j < n; j += part->row_step)
            if (frnn_cut_before(steps, t, frnn_row(steps, j0 + j))) { /* nothing flows back through a reset */
                memset(run->dh + j * O + o0, 0, (size_t)outputs * sizeof(REAL));
                for (int64_t k = 0; k < C; k += H) memset(run->dc + j * C + k + u0, 0, (size_t)row.n * sizeof(REAL));
            }
}

/* What the large products need beside da: x and h_{t-1}, where gates see that, and of some cells r*h_{t-1} or what was
 * projected. */
static void FN(gather_inputs)(const FN(backward_run) *run, const frnn_chunk *chunk, int64_t j0, const frnn_team *team) {
    const frnn_cell *cell = run->cell;
    const frnn_backward_args *args = run->args;
    const frnn_steps *steps = &args->steps;
    const int64_t H = cell->H, O = cell->O, K = run->is->recorded, lanes = FN(lanes)();
    const frnn_range mine = frnn_chunk_share(chunk, team->index, team->size);
    if (run->x.data) FN(gather)(&args->x, steps, chunk, j0, cell->I, run->x, mine);
    FOR_CHUNK_ROWS(chunk, steps, j0, mine) {
        const REAL *h_prev = FN(before_step)(run, &args->y, args->h0, O, t, b);
        const REAL *gates = (const REAL *)args->record.gates;
        const REAL *mask = FN(state_mask)(&run->noise, b);
        if (!run->h.data)
            ; /* gates do not see it */
        else if (mask)
            FN(put_met)(run->h, at, O, h_prev, mask);
        else if (run->span < H)
            for (int64_t u = 0; u < H; u += run->span) FN(put)(run->h, at, FN(column)(run, u), run->span, h_prev + u);
        else
            FN(put)(run->h, at, 0, O, h_prev);
        for (int64_t u0 = 0; run->rh.data && u0 < H; u0 += lanes) {
            const REAL *r = gates + frnn_place(steps, t, b) * K * H;
            REAL *rh = FN(at)(run->rh, at, u0).data;
            for (int64_t u = u0; u < FRNN_MIN(u0 + lanes, H); u++) rh[u - u0] = r[u] * h_prev[u];
            for (int64_t u = u0; mask && u < FRNN_MIN(u0 + lanes, H); u++) rh[u - u0] *= mask[u];
        }
        for (int64_t u0 = 0; run->m.data && u0 < H; u0 += lanes) {
            const REAL *o = gates + (frnn_place(steps, t, b) * K + run->is->output_gate) * H;
            const REAL *c = FN(fresh_cells)(run).data;
            REAL *m = FN(at)(run->m, at, u0).data;
            const int64_t n = FRNN_MIN(lanes, H - u0);
            const REAL clip = run->row.clip;
            if (cell->norm.c) {
                memcpy(m, o + u0, (size_t)n * sizeof(REAL));
                FN(normalized_output)(&run->norm, &args->record, frnn_place(steps, t, b), u0, m);
                continue;
            }
            memcpy(m, c + frnn_place(steps, t, b) * H + u0, (size_t)n * sizeof(REAL));
            for (int64_t u = 0; clip > 0 && u < n; u++) m[u] = m[u] < -clip ? -clip : m[u] > clip ? clip : m[u];
            frnn_kernels()->KERNELS_OF.tanh(n, m, m);
            for (int64_t u = u0; u < u0 + n; u++) m[u - u0] *= o[u];
        }
    }
}

/* A peephole p adds p*c to a gate's pre-activation. */
static void FN(add_peepholes)(const FN(backward_run) *run, const frnn_chunk *chunk, int64_t j0) {
    const frnn_backward_args *args = run->args;
    const int64_t H = run->cell->H, lanes = FN(lanes)();
    const frnn_series cells = FN(cells_series)(run), fresh = FN(fresh_cells)(run);
    REAL *dp = args->dcell.peephole;
    const frnn_range all = {0, frnn_chunk_rows(chunk)};
    FOR_CHUNK_ROWS(chunk, &args->steps, j0, all) {
        const REAL *c = FN(series_at)(&args->steps, &fresh, t, b);
        const REAL *c_prev = FN(before_step)(run, &cells, args->c0, H, t, b);
        for (int k = 0; k < run->is->peepholes; k++) {
            const frnn_peephole p = run->is->peephole[k];
            const REAL *seen = p.sees_new ? c : c_prev;
            for (int64_t u0 = 0; u0 < H; u0 += lanes) {
                const REAL *da = FN(at)(run->da, at, (FN(norm_raw)(&run->norm) + p.gate) * run->plane + u0).data;
                for (int64_t u = u0; u < FRNN_MIN(u0 + lanes, H); u++) dp[k * H + u] += da[u - u0] * seen[u];
            }
        }
    }
}

/* Rows of a task. Ours are small, for even shares; BLAS wants large ones. */
#define TASK_ROWS 48
#define BLAS_TASK_ROWS 256
/* Is the task being counted this thread's? */
#define MINE (task++ % team->size == team->index)

/* dweight (M, N) = beta*dweight + A^T B, A (rows, M), B (rows, N), in tasks of some rows of dweight */
static int FN(add_product)(const FN(backward_run) *run, int64_t rows, FN(matrix) A, int64_t M, FN(matrix) B, int64_t N,
                           int beta, REAL *dweight, int task, const frnn_team *team) {
    const int packed = run->cell->packed != NULL;
    for (int64_t m = 0, count; m < M; m += count) {
        count = FRNN_MIN(packed ? TASK_ROWS : BLAS_TASK_ROWS, M - m);
        if (!MINE) continue;
        REAL *C = dweight + m * N;
        product p = {.rows = count, .columns = N, .K = rows, .A = FN(at)(A, 0, m).data, .a_vector = A.vector};
        p.R = B.data, p.stride = B.vector, p.beta = beta, p.C = C, p.ldc = N, p.c_vector = FN(lanes)();
        if (packed)
            frnn_kernels()->KERNELS_OF.add_gradient(&p);
        else
            GEMM(1, 0, count, N, rows, A.data + m, A.row, B.data, B.row, beta, C, N);
    }
    return task;
}

/* dweight's blocks to.. = beta*dweight + da's blocks from..from+count-1 times B (rows, N) */
static int FN(add_weight)(const FN(backward_run) *run, int64_t rows, int from, int count, FN(matrix) B, int64_t N,
                          int beta, void *dweight, int to, int task, const frnn_team *team) {
    const int64_t H = run->cell->H;
    if (!run->cell->packed) /* blocks lie side by side: larger products */
        return FN(add_product)(run, rows, FN(at)(run->da, 0, from * H), count * H, B, N, beta,
                               (REAL *)dweight + to * H * N, task, team);
    for (int k = 0; k < count; k++)
        for (int64_t u = 0; u < H; u += run->span)
            task = FN(add_product)(run, rows, FN(at)(run->da, 0, (from + k) * run->plane + FN(column)(run, u)),
                                   run->span, B, N, beta, (REAL *)dweight + ((to + k) * H + u) * N, task, team);
    return task;
}

/* The gradient of a block-diagonal U: of each head and gate. */
static int FN(add_weight_heads)(const FN(backward_run) *run, int64_t rows, int beta, void *dweight, int task,
                                const frnn_team *team) {
    const int64_t H = run->cell->H, size = run->factors.state.N;
    for (int64_t u = 0; u < H; u += size)
        for (int k = 0; k < run->is->gates; k++)
            task = FN(add_product)(run, rows, FN(at)(run->da, 0, k * run->plane + FN(column)(run, u)), size,
                                   FN(at)(run->h, 0, FN(column)(run, u)), size, beta,
                                   (REAL *)dweight + (k * H + u) * size, task, team);
    return task;
}

/* bias's blocks to.. += sums over the rows of da's blocks from..from+count-1 */
static void FN(add_bias)(const FN(backward_run) *run, int64_t rows, int from, int count, void *bias, int to) {
    const int64_t H = run->cell->H;
    for (int k = 0; k < count; k++) {
        const FN(matrix) da = FN(at)(run->da, 0, (from + k) * run->plane);
        REAL *sum = (REAL *)bias + (to + k) * H;
        if (run->cell->packed)
            for (int64_t u = 0; u < H; u += run->span)
                frnn_kernels()->KERNELS_OF.add_columns(rows, run->span, FN(at)(da, 0, FN(column)(run, u)).data,
                                                       da.vector, sum + u);
        else
            for (int64_t row = 0; row < rows; row++)
                for (int64_t u = 0; u < H; u++) sum[u] += da.data[row * da.row + u];
    }
}

/* Gradients of biases and peepholes, from da as the cell's kernel left it. */
static void FN(add_biases)(const FN(backward_run) *run, const frnn_chunk *chunk, int64_t j0, int task,
                           const frnn_team *team) {
    const frnn_cell_gradient *d = &run->args->dcell;
    const int64_t rows = frnn_chunk_rows(chunk);
    const int G = run->is->gates, apart = run->is->apart, joint = G - apart, own = FN(norm_raw)(&run->norm);
    if (d->b_ih && MINE) {
        FN(add_bias)(run, rows, own, joint, d->b_ih, 0);
        if (apart) FN(add_bias)(run, rows, own + G, apart, d->b_ih, joint);
    }
    if (d->b_hh && MINE) FN(add_bias)(run, rows, own, G, d->b_hh, 0);
    if (d->bias_c && MINE) FN(add_bias)(run, rows, FN(norm_shown)(&run->norm), 1, d->bias_c, 0);
    if (d->peephole && team->index == 0) FN(add_peepholes)(run, chunk, j0);
}

static void FN(large_products)(const FN(backward_run) *run, const frnn_chunk *chunk, int64_t j0, int beta,
                               const frnn_team *team) {
    const frnn_cell *cell = run->cell;
    const frnn_cell_gradient *d = &run->args->dcell;
    const int64_t I = cell->I, H = cell->H, O = cell->O, rows = frnn_chunk_rows(chunk);
    /* h meets the first G blocks of da, but r*h the last of them where the cell resets before; x meets the same, or
     * others from `from` on where W x is normalised by itself, but those of the gates that stay apart are `apart`
     * blocks later */
    const int G = run->is->gates, reset = run->is->reset, early = G - reset, apart = run->is->apart, joint = G - apart;
    const int from = run->norm.separate ? FN(norm_raw)(&run->norm) : 0;
    FN(matrix) x = run->x;
    if (!x.data) x = FN(row_major)(FN(series_at)(&run->args->steps, &run->args->x, chunk->low, 0), I);
    REAL *dx = run->dx ? run->dx : FN(series_at)(&run->args->steps, &run->args->dx, chunk->low, 0);
    int task = 0;
    task = FN(add_weight)(run, rows, from, joint, x, I, beta, d->w_ih, 0, task, team);
    if (apart) task = FN(add_weight)(run, rows, from + G, apart, x, I, beta, d->w_ih, joint, task, team);
    if (run->factors.state.heads > 1)
        task = FN(add_weight_heads)(run, rows, beta, d->w_hh, task, team);
    else if (d->w_hh)
        task = FN(add_weight)(run, rows, 0, early, run->h, O, beta, d->w_hh, 0, task, team);
    if (reset) task = FN(add_weight)(run, rows, early, reset, run->rh, H, beta, d->w_hh, early, task, team);
    const int64_t task_rows = cell->packed ? TASK_ROWS : BLAS_TASK_ROWS;
    for (int64_t r = 0; run->args->dx.data && r < rows; r += task_rows) {
        const int64_t count = FRNN_MIN(task_rows, rows - r);
        if (!MINE) continue;
        FN(multiply)(&run->factors.input, count, FN(at)(run->da, r, from * run->plane), 0, joint * (int)(H / run->span),
                     0, 1, 0, I, 0, dx + r * I, I, I, 0, NULL);
        if (apart)
            FN(multiply)(&run->factors.input, count, FN(at)(run->da, r, (from + G) * run->plane), joint, G, 0, 1, 0, I,
                         1, dx + r * I, I, I, 0, NULL);
    }
    if (d->w_hr) task = FN(add_product)(run, rows, run->dh_out, O, run->m, H, beta, d->w_hr, task, team);
    if (!run->norm.wanted) FN(add_biases)(run, chunk, j0, task, team);
}

static void FN(give_dx)(const FN(backward_run) *run, const frnn_chunk *chunk, int64_t j0, const frnn_team *team) {
    const int64_t I = run->cell->I;
    const frnn_range mine = frnn_chunk_share(chunk, team->index, team->size);
    FOR_CHUNK_ROWS(chunk, &run->args->steps, j0, mine) {
        REAL *to = FN(series_at)(&run->args->steps, &run->args->dx, t, b);
        const REAL *from = run->dx + at * I;
        if (run->args->adds_to_dx)
            for (int64_t k = 0; k < I; k++) to[k] += from[k];
        else
            memcpy(to, from, (size_t)I * sizeof(REAL));
    }
}

/* Zeros in the gradients that are only added to; in all of them if there are no steps. */
static void FN(clear_gradients)(const FN(backward_run) *run, int all) {
    const frnn_cell *cell = run->cell;
    const frnn_cell_gradient *d = &run->args->dcell;
    const int64_t I = cell->I, H = cell->H, O = cell->O, G = run->is->gates;
    void *const arrays[] = {d->b_ih,   d->b_hh,   d->peephole, d->norm_ih, d->norm_hh, d->norm_sum,
                            d->norm_c, d->bias_c, d->w_ih,     d->w_hh,    d->w_hr};
    const int64_t sizes[] = {G * H, G * H,     run->is->peepholes * H,       G * H, G * H, G * H, H,
                             H,     G * H * I, G * H * O / frnn_heads(cell), O * H};
    for (int k = 0; k < (all ? 11 : 8); k++)
        if (arrays[k]) memset(arrays[k], 0, (size_t)sizes[k] * sizeof(REAL));
}

/* The gradient in the state of the rows j0..j1-1, of which each member takes some: from dh0 and dc0, where it lies
 * between chunks, to the workspace, or back. */
static void FN(move_state)(const FN(backward_run) *run, int64_t j0, int64_t j1, int back, const frnn_team *team) {
    const frnn_backward_args *args = run->args;
    const int64_t O = run->cell->O, C = run->is->has_c * run->cell->H;
    for (int64_t j = j0 + team->index; j < j1; j += team->size) {
        const int64_t b = frnn_row(&args->steps, j);
        REAL *dh0 = (REAL *)args->dh0 + b * O, *dh = run->dh + (j - j0) * O;
        memcpy(back ? dh0 : dh, back ? dh : dh0, (size_t)O * sizeof(REAL));
        if (!run->dc) continue;
        REAL *dc0 = (REAL *)args->dc0 + b * C, *dc = run->dc + (j - j0) * C;
        memcpy(back ? dc0 : dc, back ? dc : dc0, (size_t)C * sizeof(REAL));
    }
}

static void FN(backward_work)(const FN(backward_run) *run, const frnn_team *team) {
    const frnn_cell *cell = run->cell;
    const frnn_backward_args *args = run->args;
    const frnn_steps *steps = &args->steps;
    const int64_t O = cell->O, C = run->is->has_c * cell->H;
    const int64_t longest = steps->B > 0 ? frnn_length(steps, frnn_row(steps, 0)) : 0;
    frnn_chunk chunk;
    if (args->dx.data && !args->adds_to_dx) FN(clear_past_ends)(steps, &args->dx, cell->I, team);
    int beta = args->adds_to_dcell; /* if not, the first large products write the gradients of matrices */
    if (team->index == 0) {
        memset(run->zero, 0, (size_t)FN(zeros)(run) * sizeof(REAL));
        if (!args->adds_to_dcell) FN(clear_gradients)(run, longest == 0);
        memcpy(args->dh0, args->dh_n, (size_t)(steps->B * O) * sizeof(REAL));
        if (run->is->has_c) memcpy(args->dc0, args->dc_n, (size_t)(steps->B * C) * sizeof(REAL));
    }
    frnn_team_barrier(team);
    for (int64_t s1 = longest; s1 > 0; s1 -= FRNN_MIN(s1, run->plan.chunk_steps)) { /* s counts as in forward */
        const int64_t s0 = s1 - FRNN_MIN(s1, run->plan.chunk_steps), low = steps->reverse ? longest - s1 : s0;
        for (int64_t j0 = 0; j0 < steps->B; j0 += run->plan.block_rows) {
            const int64_t j1 = FRNN_MIN(j0 + run->plan.block_rows, steps->B);
            const int64_t high = FRNN_MIN(low + (s1 - s0), frnn_length(steps, frnn_row(steps, j0)));
            if (high <= low) break; /* this block's rows have ended, and so have those of the next */
            const int last = s0 == 0 && j1 == steps->B;
            const frnn_part part = frnn_part_of(cell, steps, run->by_units, j1 - j0, team->index, team->size);
            frnn_chunk_fill(&chunk, steps, j0, j1, low, high);
            FN(move_state)(run, j0, j1, 0, team);
            frnn_team_barrier(team);
            for (int64_t i = 0; i < high - low; i++) {
                const int64_t t = steps->reverse ? low + i : high - 1 - i, at = chunk.offset[t - low];
                FN(backward_step)(run, &part, j0, t, at, chunk.offset[t - low + 1] - at, team);
            }
            if (run->norm.wanted) {
                frnn_team_barrier(team); /* gradients of gains and biases need all of da */
                FN(add_gains)(&run->norm, args, &chunk, j0, run->da, team);
                FN(add_biases)(run, &chunk, j0, 0, team);
                frnn_team_barrier(team); /* and then it changes */
                FN(normalize_inputs_backward)(&run->norm, args, &chunk, j0, run->da, team);
            }
            FN(gather_inputs)(run, &chunk, j0, team);
            frnn_team_barrier(team);
            FN(large_products)(run, &chunk, j0, beta, team);
            beta = 1;
            if (last)
                frnn_team_barrier(team);
            else if (frnn_team_agree_to_stop(team))
                return;
            if (run->dx) FN(give_dx)(run, &chunk, j0, team);
            FN(move_state)(run, j0, j1, 1, team);
            /* No barrier: each member moves the same rows again. The next to write dx comes after the next barrier, and
             * nothing else that is read here changes. */
        }
    }
    frnn_team_barrier(team); /* the other direction adds to dx */
}

static void FN(backward_start)(FN(backward_run) *run, const frnn_cell *cell, const frnn_backward_args *args) {
    *run = (FN(backward_run)){.cell = cell, .args = args, .kernels = FN(cell_kernels)(cell)};
    run->is = &run->kernels->description;
    FN(factors_start)(&run->factors, cell, FRNN_BACKWARD);
    FN(noise_start)(&run->noise, args->noise, cell, &args->steps);
    run->blocks = frnn_blocks(run->is);
    run->span = frnn_span(cell), run->span_plane = cell->packed ? FN(filled)(run->span) : run->span;
    run->plane = cell->H / run->span * run->span_plane;
    FN(norms_start)(&run->norm, cell, run->is, run->plane);
    run->plan = frnn_backward_plan(cell, args, FRNN_MAX(run->blocks * cell->H, cell->I) * (int64_t)sizeof(REAL));
    run->row.H = cell->H, run->row.replace = cell->replace, run->row.linear = cell->linear;
    FN(find_bounds)(run);
}

/* One or two directions. If two run at once, the second has a dx of its own, which is added to the first's at the end.
 */
typedef struct {
    int count, at_once;
    FN(backward_run) runs[2];
    frnn_backward_args apart; /* the second's, with its own dx */
} FN(backward_runs);

static size_t FN(backward_runs_new)(FN(backward_runs) *all, int count, const frnn_cell *const *cells,
                                    const frnn_backward_args *args, const frnn_split_plan *plan, char *base) {
    const frnn_steps *steps = &args->steps;
    size_t used = 0;
    all->count = count, all->at_once = plan->at_once;
    for (int k = 0; k < count; k++) {
        FN(backward_start)(&all->runs[k], cells[k], args + k);
        all->runs[k].by_units = plan->by_units;
        used += FN(backward_layout)(&all->runs[k], plan->threads, base ? base + used : NULL);
    }
    if (plan->at_once) {
        const int64_t I = cells[1]->I, last = steps->T - 1, B = steps->starts ? 1 : steps->B;
        int64_t rows = steps->T * steps->B;
        if (steps->starts) rows = last < 0 ? 0 : steps->starts[last] + frnn_active(steps, 0, steps->B, last);
        all->apart = args[1], all->apart.adds_to_dx = 0;
        if (args[1].dx.data) all->apart.dx = (frnn_series){FN(take)(base, &used, rows * I), B * I, I};
    }
    return used;
}

int64_t FN(frnn_backward_steps)(const frnn_cell *cell, int64_t B) {
    const frnn_backward_args args = {.steps = {.T = FRNN_CHUNK_STEPS, .B = B}};
    FN(backward_run) run;
    FN(backward_start)(&run, cell, &args);
    return run.plan.chunk_steps;
}

int64_t FN(frnn_backward_workspace)(int count, const frnn_cell *const *cells, const frnn_backward_args *args,
                                    int threads) {
    const frnn_split_plan plan =
        frnn_choose_threads(cells[0], &args->steps, FRNN_BACKWARD, count, (int)FN(lanes)(), threads);
    FN(backward_runs) all;
    const size_t size = FN(backward_runs_new)(&all, count, cells, args, &plan, NULL);
    for (int k = 0; k < count; k++)
        if (!frnn_fits(cells[k], &args->steps, &all.runs[k].plan)) return -1;
    return (int64_t)size;
}

/* dx += the second direction's. */
static void FN(join_dx)(const FN(backward_runs) *all, const frnn_team *team) {
    const frnn_steps *steps = &all->apart.steps;
    const int64_t I = all->runs[1].cell->I;
    for (int64_t t = team->index; t < steps->T; t += team->size) {
        const int64_t active = frnn_active(steps, 0, steps->B, t);
        for (int64_t j = 0; j < active; j++) {
            const int64_t b = frnn_row(steps, j);
            REAL *to = FN(series_at)(steps, &all->runs[1].args->dx, t, b);
            const REAL *from = FN(series_at)(steps, &all->apart.dx, t, b);
            for (int64_t k = 0; k < I; k++) to[k] += from[k];
        }
    }
}

static void FN(backward_team)(void *context, const frnn_team *team) {
    const FN(backward_runs) *all = context;
    if (!all->at_once || team->size == 1) {
        for (int k = 0; k < all->count; k++) FN(backward_work)(&all->runs[k], team);
        return;
    }
    int which;
    const frnn_team half = frnn_team_half(team, &which);
    FN(backward_run) run = all->runs[which];
    if (which == 1) run.args = &all->apart;
    FN(backward_work)(&run, &half);
    if (!all->apart.dx.data) return;
    frnn_team_barrier(team);
    FN(join_dx)(all, team);
}

void FN(frnn_backward)(int count, const frnn_cell *const *cells, const frnn_backward_args *args, int threads,
                       void *workspace) {
    const frnn_split_plan plan =
        frnn_choose_threads(cells[0], &args->steps, FRNN_BACKWARD, count, (int)FN(lanes)(), threads);
    FN(backward_runs) all;
    FN(backward_runs_new)(&all, count, cells, args, &plan, workspace);
    threads = cells[0]->packed ? plan.threads : frnn_gemm_begin(plan.threads);
    frnn_team_run(threads, plan.alone, FN(backward_team), &all);
    if (!cells[0]->packed) frnn_gemm_end();
}
