/* A sequence forwards, for one dtype. Included by sequence_body.h.
 *
 * In chunks of steps: (1) gather the valid rows of x, (2) project them with one product, (3) step by step, one product
 * adds the state's part for all gates together, then the cell's kernel goes row by row. A cell that resets before a
 * product takes two of each in a step.
 */

typedef struct {
    const frnn_cell *cell;
    const frnn_forward_args *args;
    const CELL_KERNELS *kernels;
    const frnn_description *is; /* the cell's */
    frnn_plan plan;
    int by_units;
    FN(factors) factors;
    int64_t blocks; /* of pre-activations in a row */
    int64_t plane;  /* from block to block, at least H */
    REAL *bias;     /* (blocks, plane) */
    FN(matrix) x;   /* (chunk rows, I) gathered; unused where x itself is one block */
    REAL *a;        /* (chunk rows, blocks, plane): W x, then W x + U h */
    REAL *h[2];     /* (block rows, O): step s reads h[s % 2] and writes the other */
    REAL *c;        /* (block rows, S, H), if the cell has c */
    REAL *m;        /* (block rows, H) what is to be projected */
    REAL *early;    /* (block rows, gates before the reset product, H); unused where a tape has them */
    REAL *rh;       /* (block rows, H) r*h_{t-1} of a cell that resets before a product */
    char *scratch;  /* of each member: rows that are converted for narrow weights */
    int64_t member_scratch;
    FN(norms) norm;
    FN(noise) noise;
    int64_t span; /* units whose vectors lie side by side: heads_body.h */
} FN(forward_run);

/* Bytes of a member's scratch. */
static int64_t FN(scratch_bytes)(const FN(forward_run) *run) {
    const frnn_cell *cell = run->cell;
    const PACKING *packing = run->factors.input.packing;
    if (!cell->packed || !packing->convert) return 0;
    const int64_t widest = FRNN_MAX(cell->I, FRNN_MAX(cell->H, cell->O));
    return FRNN_MIN(FRNN_ROWS_CONVERTED, run->plan.chunk_rows) * FRNN_ROW_BYTES(packing, widest);
}

/* Lay out the workspace for at most so many threads; with base null only its size counts. */
static size_t FN(forward_layout)(FN(forward_run) *run, int threads, char *base) {
    const frnn_cell *cell = run->cell;
    const frnn_plan *plan = &run->plan;
    const int64_t early = run->is->reset ? run->is->gates - run->is->reset : 0;
    size_t used = 0;
    run->bias = FN(take)(base, &used, run->blocks * run->plane);
    run->x = FN(take_matrix)(base, &used, 0, plan->direct ? 0 : plan->chunk_rows, cell->I);
    run->a = FN(take)(base, &used, plan->chunk_rows * run->blocks * run->plane);
    run->h[0] = FN(take)(base, &used, plan->block_rows * cell->O);
    run->h[1] = FN(take)(base, &used, plan->block_rows * cell->O);
    run->c = FN(take)(base, &used, plan->block_rows * run->is->has_c * cell->H);
    run->m = FN(take)(base, &used, cell->w_hr ? plan->block_rows * cell->H : 0);
    run->early = FN(take)(base, &used, plan->block_rows * early * cell->H);
    run->rh = FN(take)(base, &used, run->is->reset ? plan->block_rows * cell->H : 0);
    FN(noise_layout)(&run->noise, plan->block_rows, 0, base, &used);
    run->member_scratch = FN(scratch_bytes)(run);
    const int members = frnn_most_members(cell, &run->args->steps, threads);
    run->scratch = (char *)FN(take)(base, &used, members * run->member_scratch / (int64_t)sizeof(REAL));
    FN(norm_forward_layout)(&run->norm, base, &used, plan, members);
    return used;
}

/* b_ih + b_hh; where gates stay apart b_hh in the gate's block and b_ih in that of W x. */
static void FN(combine_bias)(const FN(forward_run) *run) {
    const frnn_cell *cell = run->cell;
    const int64_t H = cell->H, G = run->is->gates;
    const REAL *b_ih = cell->b_ih, *b_hh = cell->b_hh;
    memset(run->bias, 0, (size_t)(run->blocks * run->plane) * sizeof(REAL));
    if (!b_ih) return;
    for (int64_t g = 0; g < G; g++) {
        REAL *bias = run->bias + g * run->plane;
        const int64_t apart = g >= G - run->is->apart ? run->is->apart * run->plane : 0;
        for (int64_t u = 0; u < H; u++) {
            const REAL hh = b_hh ? b_hh[g * H + u] : 0;
            bias[u] = apart ? hh : b_ih[g * H + u] + hh;
            if (apart) bias[apart + u] = b_ih[g * H + u];
        }
    }
}

/* Where row b's state lies among the caller's. */
static inline int64_t FN(state_row)(const FN(forward_run) *run, int64_t b) {
    return run->args->rows ? run->args->rows[b] : b;
}

static void FN(start_states)(const FN(forward_run) *run, int64_t j0, int64_t j1, const frnn_team *team) {
    const frnn_steps *s = &run->args->steps;
    const int64_t O = run->cell->O, C = run->is->has_c * run->cell->H;
    for (int64_t j = j0 + team->index; j < j1; j += team->size) {
        const int64_t b = frnn_row(s, j), at = j - j0, from = FN(state_row)(run, b);
        const int cut = !s->reverse && frnn_length(s, b) > 0 && frnn_cut_before(s, 0, b);
        FN(copy_or_clear)(run->h[0] + at * O, cut ? NULL : (const REAL *)run->args->h0 + from * O, O);
        memcpy(run->h[1] + at * O, run->h[0] + at * O, (size_t)O * sizeof(REAL));
        for (int k = 0; run->noise.met[0] && k < 2; k++)
            FN(times)(O, run->h[0] + at * O, FN(state_mask)(&run->noise, b), run->noise.met[k] + at * O);
        if (run->c) FN(copy_or_clear)(run->c + at * C, cut ? NULL : (const REAL *)run->args->c0 + from * C, C);
    }
}

static void FN(finish_states)(const FN(forward_run) *run, int64_t j0, int64_t j1, int64_t longest,
                              const frnn_team *team) {
    const frnn_steps *s = &run->args->steps;
    const int64_t O = run->cell->O, C = run->is->has_c * run->cell->H;
    for (int64_t j = j0 + team->index; j < j1; j += team->size) {
        const int64_t b = frnn_row(s, j), at = j - j0, length = frnn_length(s, b), to = FN(state_row)(run, b);
        /* forwards a row ends after `length` steps of the block; reversed in time all end together */
        const REAL *h = run->h[(length == 0 ? 0 : s->reverse ? longest : length) % 2];
        memcpy((REAL *)run->args->h_n + to * O, h + at * O, (size_t)O * sizeof(REAL));
        if (run->c) memcpy((REAL *)run->args->c_n + to * C, run->c + at * C, (size_t)C * sizeof(REAL));
    }
}

/* a = x W^T for `count` rows of a chunk, every step-th from `first` on, and some units. */
static void FN(project_part)(const FN(forward_run) *run, const frnn_part *part, const frnn_team *team, FN(matrix) x,
                             int64_t first, int64_t step, int64_t count) {
    const FN(factor) *W = &run->factors.input;
    const frnn_range units = part->units;
    char *scratch = run->scratch + part->member * run->member_scratch;
    const int64_t A = run->blocks * run->plane;
    const int G = run->is->gates, apart = run->is->apart, joint = G - apart;
    REAL *a = run->a + first * A;
    x = FN(every)(FN(at)(x, first, 0), step);
    FN(multiply)(W, count, x, 0, 1, 0, joint, units.first, units.end, 0, a, step * A, run->plane, 0, scratch);
    if (apart) /* to blocks of their own, for U h will be added to zeros */
        FN(multiply)(W, count, x, 0, 1, joint, G, units.first, units.end, 0, a + apart * run->plane, step * A,
                     run->plane, 0, scratch);
    if (run->norm.wanted) FN(norm_inputs)(&run->norm, part, team, a, first, step, count);
    if (!apart) return;
    const int64_t end = units.end == run->cell->H ? run->plane : units.end;
    for (int64_t r = 0; r < count; r++)
        for (int g = joint; g < G; g++)
            memset(a + r * step * A + g * run->plane + units.first, 0, (size_t)(end - units.first) * sizeof(REAL));
}

/* A member with fewer rows a step than this projects many steps at a time. */
#define OWN_ROWS 6

/* a = x W^T for a chunk. Each member computes what it will need in the steps, its units or its rows, so that it finds
 * them in its cache. But if it has so few rows a step that reading W for them would take longer, and with BLAS, which
 * is slow with few rows, it computes an even share of the chunk's rows. */
static void FN(project)(const FN(forward_run) *run, const frnn_part *part, const frnn_chunk *chunk,
                        const frnn_team *team) {
    const int64_t rows = frnn_chunk_rows(chunk);
    FN(matrix) x = run->x;
    if (run->plan.direct) x.data = FN(series_at)(&run->args->steps, &run->args->x, chunk->low, 0);
    if (part->by_units || team->size == 1) {
        frnn_part own = *part; /* in whole vectors of W, also where members share whole heads */
        if (part->by_units) own.units = frnn_share(run->cell->H, FRNN_UNITS, team->index, team->size);
        FN(project_part)(run, &own, team, x, 0, 1, rows);
    } else if (!run->cell->packed || rows < OWN_ROWS * team->size * (chunk->high - chunk->low)) {
        const frnn_range mine = frnn_chunk_share(chunk, team->index, team->size);
        FN(project_part)(run, part, team, x, mine.first, 1, mine.end - mine.first);
    } else {
        for (int64_t i = 0; i < chunk->high - chunk->low; i++) {
            const int64_t own = frnn_part_rows(part, chunk->offset[i + 1] - chunk->offset[i]);
            if (own > 0) FN(project_part)(run, part, team, x, chunk->offset[i] + part->row_first, part->row_step, own);
        }
    }
}

/* a += h U^T in step s, blocks b0..b1-1, for this member's units and `rows` of its rows; or to the array in which it is
 * normalised by itself. */
static void FN(recur)(const FN(forward_run) *run, const frnn_part *part, int64_t s, int64_t rows, const REAL *h,
                      REAL *a, int b0, int b1) {
    const FN(factor) *U = &run->factors.state;
    const int64_t A = run->blocks * run->plane;
    if (run->is->unconnected) return;
    if (U->heads > 1) {
        FN(recur_heads)(U, rows, h + part->row_first * run->cell->O, part->row_step * run->cell->O, b1, part->units,
                        a + part->row_first * A, part->row_step * A, run->plane, s % 2,
                        run->scratch + part->member * run->member_scratch);
        return;
    }
    const int adds = !run->norm.product;
    REAL *C = adds ? a : run->norm.product;
    FN(multiply)(U, rows, FN(row_major)(h + part->row_first * U->K, part->row_step * U->K), 0, 1, b0, b1,
                 part->units.first, part->units.end, adds, C + part->row_first * A, part->row_step * A, run->plane,
                 s % 2, run->scratch + part->member * run->member_scratch);
}

static void FN(forward_step)(const FN(forward_run) *run, const frnn_part *part, int64_t j0, int64_t s, int64_t t,
                             int64_t n, int64_t first, const frnn_team *team) {
    const frnn_cell *cell = run->cell;
    const frnn_forward_args *args = run->args;
    const frnn_steps *steps = &args->steps;
    const int64_t H = cell->H, O = cell->O, A = run->blocks * run->plane, u0 = part->units.first;
    const int64_t rows = frnn_part_rows(part, n), K = run->is->recorded, C = run->is->has_c * H;
    const int G = run->is->gates, early = G - run->is->reset; /* gates that come from h itself */
    const REAL *h_prev = run->h[s % 2];
    const REAL *met = run->noise.met[0] ? run->noise.met[s % 2] : h_prev; /* h as U meets it */
    REAL *h_next = run->h[1 - s % 2], *gates = args->record.gates, *a = run->a + first * A;
    n = FRNN_MIN(n, part->row_end);

    FN(frnn_forward_row) row = {.n = part->units.end - u0, .H = H, .plane = run->plane, .replace = cell->replace};
    row.shows_o = cell->norm.c != NULL;
    row.bias = run->bias + u0, row.linear = cell->linear, row.clip = (REAL)cell->clip;
    if (cell->peephole) row.peephole = (const REAL *)cell->peephole + u0;

    FN(recur)(run, part, s, rows, met, a, 0, early);
    if (run->norm.wanted)
        FN(normalize_step)(&run->norm, part, steps, &args->record, j0, t, first, n, a, 0, early, team);
    if (early < G) {
        for (int64_t j = part->row_first; j < n; j += part->row_step) {
            const int64_t place = frnn_place(steps, t, frnn_row(steps, j0 + j));
            row.a = a + j * A + u0;
            row.early = gates ? gates + place * K * H + u0 : run->early + j * early * H + u0;
            row.h_prev = met + j * O + u0, row.rh = run->rh + j * H + u0;
            run->kernels->reset_forward(&row);
        }
        if (part->by_units) frnn_team_barrier(team); /* the product needs all of r*h */
        FN(recur)(run, part, s, rows, run->rh, a, early, G);
        if (run->norm.wanted)
            FN(normalize_step)(&run->norm, part, steps, &args->record, j0, t, first, n, a, early, G, team);
    }
    for (int64_t j = part->row_first; j < n; j += part->row_step) {
        const int64_t b = frnn_row(steps, j0 + j), place = frnn_place(steps, t, b);
        row.a = a + j * A + u0;
        row.h_prev = h_prev + j * O + u0;
        row.h = cell->w_hr ? run->m + j * H + u0 : h_next + j * O + u0;
        row.y = cell->w_hr || row.shows_o ? NULL : FN(series_at)(steps, &args->y, t, b) + u0;
        if (run->c) row.c = run->c + j * C + u0, row.c_prev = row.c;
        if (gates) row.gates = gates + place * K * H + u0;
        if (args->record.cells) row.cells = (REAL *)args->record.cells + place * C + u0;
        if (run->noise.zones_c) row.c = run->noise.fresh + j * H + u0;
        if (run->noise.zones_c && gates) row.cells = (REAL *)args->record.fresh + place * H + u0;
        if (run->noise.noise) row.mask = FN(candidate_mask)(&run->noise, j, t, b, part->units);
        if (early < G) row.early = gates ? row.gates : run->early + j * early * H + u0;
        if (run->span < H)
            FN(forward_row)(run->kernels, run->span, row);
        else
            run->kernels->forward(&row);
    }
    if (row.shows_o) {
        const frnn_series none = {0};
        FN(normalize_cells)(&run->norm, part, steps, &args->record, j0, t, n,
                            run->noise.zones_c ? run->noise.fresh : run->c, cell->w_hr ? run->m : h_next,
                            cell->w_hr ? H : O, cell->w_hr ? &none : &args->y, team);
    }
    const int64_t o0 = part->outputs.first, outputs = part->outputs.end - o0;
    if (cell->w_hr) {
        if (part->by_units) frnn_team_barrier(team); /* the projection needs all of m */
        FN(multiply)(&run->factors.projection, rows, FN(row_major)(run->m + part->row_first * H, part->row_step * H), 0,
                     1, 0, 1, o0, part->outputs.end, 0, h_next + part->row_first * O, part->row_step * O, O, s % 2,
                     run->scratch + part->member * run->member_scratch);
    }
    if (run->noise.zones_h || run->noise.zones_c)
        FN(zone_step)(&run->noise, part, j0, t, n, h_prev, h_next, run->c, args);
    if (cell->w_hr || steps->resets)
        for (int64_t j = part->row_first; j < n; j += part->row_step) {
            const int64_t b = frnn_row(steps, j0 + j);
            if (cell->w_hr)
                memcpy(FN(series_at)(steps, &args->y, t, b) + o0, h_next + j * O + o0, (size_t)outputs * sizeof(REAL));
            if (frnn_cut_after(steps, t, b)) {
                memset(h_next + j * O + o0, 0, (size_t)outputs * sizeof(REAL));
                for (int64_t k = 0; k < C; k += H) memset(run->c + j * C + k + u0, 0, (size_t)row.n * sizeof(REAL));
            }
        }
    if (run->noise.met[0]) FN(meet)(&run->noise, part, j0, n, h_next, run->noise.met[1 - s % 2]);
    if (part->by_units && !run->is->unconnected) frnn_team_barrier(team); /* the next step reads all of h */
}

static void FN(forward_work)(const FN(forward_run) *run, const frnn_team *team) {
    const frnn_cell *cell = run->cell;
    const frnn_steps *steps = &run->args->steps;
    frnn_chunk chunk;
    if (team->index == 0) FN(combine_bias)(run);
    for (int64_t j0 = 0; j0 < steps->B; j0 += run->plan.block_rows) {
        const int64_t j1 = FRNN_MIN(j0 + run->plan.block_rows, steps->B);
        const int64_t longest = frnn_length(steps, frnn_row(steps, j0));
        const frnn_part part = frnn_part_of(cell, steps, run->by_units, j1 - j0, team->index, team->size);
        FN(start_states)(run, j0, j1, team);
        for (int64_t s0 = 0; s0 < longest; s0 += run->plan.chunk_steps) {
            const int64_t s1 = FRNN_MIN(s0 + run->plan.chunk_steps, longest);
            frnn_chunk_fill(&chunk, steps, j0, j1, steps->reverse ? longest - s1 : s0,
                            steps->reverse ? longest - s0 : s1);
            if (!run->plan.direct) {
                FN(gather)(&run->args->x, steps, &chunk, j0, cell->I, run->x,
                           frnn_chunk_share(&chunk, team->index, team->size));
                frnn_team_barrier(team);
            }
            FN(project)(run, &part, &chunk, team);
            frnn_team_barrier(team);
            for (int64_t s = s0; s < s1; s++) {
                const int64_t t = steps->reverse ? longest - 1 - s : s, at = chunk.offset[t - chunk.low];
                FN(forward_step)(run, &part, j0, s, t, chunk.offset[t - chunk.low + 1] - at, at, team);
            }
            /* a step alone is never stopped: a stream would be left with half of it */
            if ((s1 == longest && j1 == steps->B) || steps->T == 1)
                frnn_team_barrier(team);
            else if (frnn_team_agree_to_stop(team)) /* a barrier, too: a is free for the next chunk */
                return;
        }
        frnn_team_barrier(team);
        FN(finish_states)(run, j0, j1, longest, team);
        frnn_team_barrier(team); /* h and c are free for the next block */
    }
    FN(clear_past_ends)(steps, &run->args->y, cell->O, team);
    const int64_t recorded = run->is->recorded * cell->H;
    const frnn_series gates = {run->args->record.gates, steps->B * recorded, recorded};
    const int64_t C = run->is->has_c * cell->H;
    const frnn_series cells = {run->args->record.cells, steps->B * C, C};
    if (gates.data) FN(clear_past_ends)(steps, &gates, recorded, team);
    if (cells.data) FN(clear_past_ends)(steps, &cells, C, team);
    const frnn_series fresh = {run->args->record.fresh, steps->B * cell->H, cell->H};
    if (fresh.data) FN(clear_past_ends)(steps, &fresh, cell->H, team);
}

/* In place, for a run is large beside a step. */
static void FN(forward_start)(FN(forward_run) *run, const frnn_cell *cell, const frnn_forward_args *args) {
    *run = (FN(forward_run)){.cell = cell, .args = args, .kernels = FN(cell_kernels)(cell)};
    run->is = &run->kernels->description;
    FN(factors_start)(&run->factors, cell, FRNN_FORWARD);
    FN(noise_start)(&run->noise, args->noise, cell, &args->steps);
    run->blocks = frnn_blocks(run->is);
    run->plane = FN(plane)(cell), run->span = frnn_span(cell);
    FN(norms_start)(&run->norm, cell, run->is, run->plane);
    run->plan = frnn_forward_plan(cell, args, FRNN_MAX(run->blocks * run->plane, cell->I) * (int64_t)sizeof(REAL));
}

int64_t FN(frnn_forward_workspace)(const frnn_cell *cell, const frnn_forward_args *args, int threads) {
    FN(forward_run) run;
    FN(forward_start)(&run, cell, args);
    return frnn_fits(cell, &args->steps, &run.plan) ? (int64_t)FN(forward_layout)(&run, threads, NULL) : -1;
}

typedef struct {
    int count, at_once;
    FN(forward_run) runs[2];
} FN(forward_runs);

static void FN(forward_team)(void *context, const frnn_team *team) {
    FN(forward_runs) *all = context;
    if (all->at_once && team->size > 1) {
        int which;
        const frnn_team half = frnn_team_half(team, &which);
        FN(forward_work)(&all->runs[which], &half);
        return;
    }
    for (int k = 0; k < all->count; k++) FN(forward_work)(&all->runs[k], team);
}

void FN(frnn_forward)(int count, const frnn_cell *const *cells, const frnn_forward_args *args, int threads,
                      void *workspace) {
    FN(forward_runs) all;
    frnn_split_plan plan = frnn_choose_threads(cells[0], &args->steps, FRNN_FORWARD, count, (int)FN(lanes)(), threads);
    all.count = count, all.at_once = plan.at_once;
    for (int k = 0; k < count; k++) {
        FN(forward_start)(&all.runs[k], cells[k], args + k);
        all.runs[k].by_units = plan.by_units;
        workspace = (char *)workspace + FN(forward_layout)(&all.runs[k], plan.threads, workspace);
    }
    threads = cells[0]->packed ? plan.threads : frnn_gemm_begin(plan.threads);
    frnn_team_run(threads, plan.alone, FN(forward_team), &all);
    if (!cells[0]->packed) frnn_gemm_end();
}
