/* Layer normalisation in a step, for one dtype. Included by sequence_body.h; the kernels are kernels/norm_body.h.
 *
 * "separate" normalises W x and U h by themselves: the product U h goes to an array of its own, and what is normalised
 * is added up. A part of U that has a product of its own, as where a cell resets before, is normalised by itself. "sum"
 * normalises each gate of W x + U h. Biases are added afterwards, by the cell's kernel as always. Where the cell has c,
 * its kernel leaves o in h, and h becomes o times the tanh of c as it is normalised.
 *
 * A member leaves the sums of its groups of units in a table. Where members share units there is a barrier then; and
 * each adds up all groups of a row, one after the other, so that all of them come to the same bits.
 *
 * A tape has of each row: the normalised values of W x (G, H) and of U h (G, H), or of their sum (G, H); then one over
 * the deviation of W x and of each product of U, or of each gate; then the mean of c and one over its deviation.
 */

#define NORM_ROW FN(frnn_norm_row)
#define NORM_BACKWARD_ROW FN(frnn_norm_backward_row)
#define NORM_KERNELS frnn_kernels()->KERNELS_OF

/* `values` numbers of each group of units, of each of `rows` rows. What a member writes lies together, and apart from
 * what others write. */
typedef struct {
    REAL *data;
    int64_t rows, values;
} FN(norm_table);

typedef struct {
    const frnn_cell *cell;
    int wanted, separate;
    int gates, joint, apart; /* blocks of a row of pre-activations: see frnn_description */
    int products;            /* of parts of U in a step */
    int64_t plane, row;      /* from block to block of pre-activations, from row to row */
    int64_t values;          /* of a row of the tape */
    FN(norm_table) input;    /* of W x, for the rows of a chunk; the others are for those of a step */
    FN(norm_table) state;    /* of U h, or of the sum */
    FN(norm_table) cells;    /* of c */
    REAL *product;           /* (block rows, blocks, plane): U h, if it is normalised by itself */
    REAL *normal;            /* (block rows, H): backwards, the normalised c */
} FN(norms);

/* Fill in what is all zeros, and stays so if the cell does not normalise. */
static void FN(norms_start)(FN(norms) *n, const frnn_cell *cell, const frnn_description *is, int64_t plane) {
    if (!cell->norm.hh && !cell->norm.sum) return;
    n->cell = cell, n->wanted = 1, n->separate = cell->norm.hh != NULL;
    n->gates = is->gates, n->joint = is->gates - is->apart, n->apart = is->apart;
    n->products = 1 + (is->reset > 0), n->plane = plane, n->row = frnn_blocks(is) * plane;
    n->values = (n->separate ? 2 * n->gates * cell->H + 1 + n->products : n->gates * (cell->H + 1)) + 2 * is->has_c;
}

/* ---- Tables ---- */

static int64_t FN(norm_groups)(const frnn_cell *cell) { return (cell->H + FRNN_UNITS - 1) / FRNN_UNITS; }

static FN(norm_table)
    FN(take_table)(char *base, size_t *used, const frnn_cell *cell, int64_t rows, int64_t values, int members) {
    const int64_t size = rows * values > 0 ? rows * values * FN(norm_groups)(cell) + 2 * FRNN_UNITS * members : 0;
    return (FN(norm_table)){FN(take)(base, used, size), rows, values};
}

/* A member's part of a row: `count` groups, whose k-th value of all begins at [k*count]. */
static NEVER_INLINE REAL *FN(table_row)(const FN(norm_table) *table, const frnn_cell *cell, const frnn_part *part,
                                        int member, int size, int64_t row, int64_t *count) {
    int64_t first = 0;
    *count = FN(norm_groups)(cell);
    if (part->by_units) {
        const frnn_range units = frnn_share(cell->H, FRNN_UNITS, member, size);
        first = units.first / FRNN_UNITS, *count = (units.end - units.first + FRNN_UNITS - 1) / FRNN_UNITS;
    }
    const int64_t before = table->rows * table->values * first / FRNN_UNITS * FRNN_UNITS;
    return table->data + before + FRNN_UNITS * (first > 0 ? 1 + member : 0) + row * table->values * *count;
}

/* Of the groups' means and sums of squares, value `k` and the next one, the mean of a row, and one over its deviation.
 */
static NEVER_INLINE void FN(norm_statistics)(const FN(norms) *norm, const FN(norm_table) *table, const frnn_part *part,
                                             const frnn_team *team, int64_t row, int k, int gates, NORM_ROW *result) {
    const frnn_cell *cell = norm->cell;
    const int64_t H = cell->H, groups = FN(norm_groups)(cell), last = H - (groups - 1) * FRNN_UNITS;
    const int size = part->by_units ? team->size : 1;
    const REAL whole = (REAL)FRNN_UNITS / (REAL)H, rest = (REAL)last / (REAL)H, each = 1 / (REAL)(gates * H);
    REAL mean = 0, squares = 0;
    for (int pass = 0; pass < 2; pass++) {
        int64_t group = 0, count;
        for (int member = 0; member < size; member++) {
            const REAL *of = FN(table_row)(table, cell, part, member, size, row, &count) + k * count;
            for (int64_t i = 0; i < count; i++, group++) {
                const REAL share = group + 1 < groups ? whole : rest;
                if (pass == 0)
                    mean += share * of[i];
                else
                    squares += of[count + i] * each + share * ((of[i] - mean) * (of[i] - mean));
            }
        }
    }
    result->mean = mean, result->inverse = 1 / (REAL)sqrt(squares + (REAL)cell->norm.eps);
}

/* Of the groups' sums, value `k` and the next one, the means over a row. */
static NEVER_INLINE void FN(norm_means)(const FN(norms) *norm, const FN(norm_table) *table, const frnn_part *part,
                                        const frnn_team *team, int64_t row, int k, int gates,
                                        NORM_BACKWARD_ROW *result) {
    const int size = part->by_units ? team->size : 1;
    REAL first = 0, second = 0;
    int64_t count;
    for (int member = 0; member < size; member++) {
        const REAL *of = FN(table_row)(table, norm->cell, part, member, size, row, &count) + k * count;
        for (int64_t i = 0; i < count; i++) first += of[i], second += of[count + i];
    }
    const REAL each = 1 / (REAL)(gates * norm->cell->H);
    result->first = first * each, result->second = second * each;
}

/* ---- The tape ---- */

/* The cell states that were shown: as they were before zoneout. */
static const REAL *FN(shown_cells)(const frnn_record *record) { return record->fresh ? record->fresh : record->cells; }

static REAL *FN(norm_record)(const FN(norms) *norm, const frnn_record *record, int64_t place) {
    return record->norms ? (REAL *)record->norms + place * norm->values : NULL;
}

/* Of a row of the tape: one over the deviation of W x, or of gate 0; then of the others. */
static REAL *FN(norm_inverses)(const FN(norms) *norm, REAL *record) {
    return record + (norm->separate ? 2 : 1) * norm->gates * norm->cell->H;
}

/* The mean of c, and then one over its deviation. */
static REAL *FN(norm_of_cells)(const FN(norms) *norm, REAL *record) { return record + norm->values - 2; }

/* ---- Forwards ---- */

static void FN(norm_forward_layout)(FN(norms) *norm, char *base, size_t *used, const frnn_plan *plan, int members) {
    const frnn_cell *cell = norm->cell;
    if (!norm->wanted) return;
    const int64_t block = plan->block_rows, parts = norm->separate ? norm->products : norm->gates;
    norm->input = FN(take_table)(base, used, cell, norm->separate ? plan->chunk_rows : 0, 2, members);
    norm->state = FN(take_table)(base, used, cell, block, 2 * parts, members);
    norm->cells = FN(take_table)(base, used, cell, cell->norm.c ? block : 0, 2, members);
    norm->product = FN(take)(base, used, norm->separate ? block * norm->row : 0);
}

/* A row of pre-activations from gate g on, for a member's units. */
static NORM_ROW FN(norm_row_of)(const FN(norms) *norm, const frnn_part *part, int g, int gates) {
    return (NORM_ROW){.n = part->units.end - part->units.first,
                      .H = norm->cell->H,
                      .plane = norm->plane,
                      .gates = gates,
                      .joint = g == 0 && gates == norm->gates ? norm->joint : gates,
                      .apart = norm->apart};
}

/* Sums of W x, of rows of a chunk. */
static NEVER_INLINE void FN(norm_inputs)(const FN(norms) *norm, const frnn_part *part, const frnn_team *team,
                                         const REAL *a, int64_t first, int64_t step, int64_t count) {
    if (!norm->separate) return;
    NORM_ROW row = FN(norm_row_of)(norm, part, 0, norm->gates);
    int64_t groups;
    for (int64_t r = 0; r < count; r++) {
        REAL *means =
            FN(table_row)(&norm->input, norm->cell, part, part->member, team->size, first + r * step, &groups);
        row.x = a + r * step * norm->row + part->units.first;
        NORM_KERNELS.norm_moments(&row, means, means + groups);
    }
}

/* Normalises gates g0..g1-1 after their product with U: of the rows of a step from row `at` of a chunk on. */
static NEVER_INLINE void FN(normalize_step)(const FN(norms) *norm, const frnn_part *part, const frnn_steps *steps,
                                            const frnn_record *record, int64_t j0, int64_t t, int64_t at, int64_t n,
                                            REAL *a, int g0, int g1, const frnn_team *team) {
    const frnn_cell *cell = norm->cell;
    const int64_t H = cell->H, u0 = part->units.first;
    const int each = norm->separate ? g1 - g0 : 1; /* gates that are normalised together */
    REAL *x = (norm->separate ? norm->product : a) + u0;
    NORM_ROW row = FN(norm_row_of)(norm, part, 1, each);
    int64_t groups;
    a += u0;
    for (int64_t j = part->row_first; j < n; j += part->row_step) {
        REAL *of = FN(table_row)(&norm->state, cell, part, part->member, team->size, j, &groups);
        for (int g = g0; g < g1; g += each) {
            REAL *means = of + 2 * (norm->separate ? g0 > 0 : g) * groups;
            row.x = x + j * norm->row + g * norm->plane;
            NORM_KERNELS.norm_moments(&row, means, means + groups);
        }
    }
    if (part->by_units) frnn_team_barrier(team); /* a row's sums are those of all units */
    for (int64_t j = part->row_first; j < n; j += part->row_step) {
        REAL *kept = FN(norm_record)(norm, record, frnn_place(steps, t, frnn_row(steps, j0 + j)));
        REAL *inverses = kept ? FN(norm_inverses)(norm, kept) : NULL;
        if (norm->separate && g0 == 0) {
            NORM_ROW input = FN(norm_row_of)(norm, part, 0, norm->gates);
            FN(norm_statistics)(norm, &norm->input, part, team, at + j, 0, norm->gates, &input);
            input.x = input.y = a + j * norm->row, input.gain = (const REAL *)cell->norm.ih + u0;
            input.normal = kept ? kept + u0 : NULL;
            if (kept && u0 == 0) inverses[0] = input.inverse;
            NORM_KERNELS.normalize(&input);
        }
        for (int g = g0; g < g1; g += each) {
            const int which = norm->separate ? g0 > 0 : g;
            FN(norm_statistics)(norm, &norm->state, part, team, j, 2 * which, each, &row);
            row.x = x + j * norm->row + g * norm->plane, row.y = a + j * norm->row + g * norm->plane;
            row.adds = norm->separate;
            row.gain = (const REAL *)(norm->separate ? cell->norm.hh : cell->norm.sum) + g * H + u0;
            row.normal = kept ? kept + ((norm->separate ? norm->gates : 0) + g) * H + u0 : NULL;
            if (kept && u0 == 0) inverses[norm->separate + which] = row.inverse;
            NORM_KERNELS.normalize(&row);
        }
    }
}

/* h, which has o, becomes o times the tanh of c as it is normalised; y as well, unless its data is null. */
static NEVER_INLINE void FN(normalize_cells)(const FN(norms) *norm, const frnn_part *part, const frnn_steps *steps,
                                             const frnn_record *record, int64_t j0, int64_t t, int64_t n, const REAL *c,
                                             REAL *h, int64_t h_row, const frnn_series *y, const frnn_team *team) {
    const frnn_cell *cell = norm->cell;
    const int64_t H = cell->H, u0 = part->units.first;
    NORM_ROW row = FN(norm_row_of)(norm, part, 0, 1);
    int64_t groups;
    for (int64_t j = part->row_first; j < n; j += part->row_step) {
        REAL *means = FN(table_row)(&norm->cells, cell, part, part->member, team->size, j, &groups);
        row.x = c + j * H + u0;
        NORM_KERNELS.norm_moments(&row, means, means + groups);
    }
    if (part->by_units) frnn_team_barrier(team); /* a row's sums are those of all units */
    row.gain = (const REAL *)cell->norm.c + u0;
    row.bias = cell->norm.bias_c ? (const REAL *)cell->norm.bias_c + u0 : NULL;
    for (int64_t j = part->row_first; j < n; j += part->row_step) {
        const int64_t b = frnn_row(steps, j0 + j);
        REAL *kept = FN(norm_record)(norm, record, frnn_place(steps, t, b));
        FN(norm_statistics)(norm, &norm->cells, part, team, j, 0, 1, &row);
        if (kept && u0 == 0)
            FN(norm_of_cells)(norm, kept)[0] = row.mean, FN(norm_of_cells)(norm, kept)[1] = row.inverse;
        row.x = c + j * H + u0, row.y = h + j * h_row + u0;
        row.copy = y->data ? FN(series_at)(steps, y, t, b) + u0 : NULL;
        NORM_KERNELS.norm_output(&row);
    }
}

/* ---- Backwards ---- */

/* h before it was projected, of a row of the tape, for units from u0 on, at most a vector; h has o. */
static NEVER_INLINE void FN(normalized_output)(const FN(norms) *norm, const frnn_record *record, int64_t place,
                                               int64_t u0, REAL *h) {
    const frnn_cell *cell = norm->cell;
    const REAL *kept = FN(norm_of_cells)(norm, FN(norm_record)(norm, record, place));
    const NORM_ROW row = {.n = FRNN_MIN(FN(lanes)(), cell->H - u0),
                          .mean = kept[0],
                          .inverse = kept[1],
                          .x = FN(shown_cells)(record) + place * cell->H + u0,
                          .gain = (const REAL *)cell->norm.c + u0,
                          .bias = cell->norm.bias_c ? (const REAL *)cell->norm.bias_c + u0 : NULL,
                          .y = h};
    NORM_KERNELS.norm_output(&row);
}

static void FN(norm_backward_layout)(FN(norms) *norm, char *base, size_t *used, const frnn_plan *plan, int members) {
    const frnn_cell *cell = norm->cell;
    if (!norm->wanted) return;
    const int64_t block = plan->block_rows, parts = norm->separate ? norm->products : norm->gates;
    norm->input = FN(take_table)(base, used, cell, norm->separate ? members : 0, 2, members);
    norm->state = FN(take_table)(base, used, cell, block, 2 * parts, members);
    norm->cells = FN(take_table)(base, used, cell, cell->norm.c ? block : 0, 2, members);
    norm->normal = FN(take)(base, used, cell->norm.c ? block * cell->H : 0);
}

/* Rows of da have: the gradients of U h, or of the sum, as it was before normalisation (gates), those of what was
 * normalised, as the cell's kernel leaves them (blocks), and that of what is shown of c. */
static int FN(norm_raw)(const FN(norms) *norm) { return norm->wanted ? norm->gates : 0; }
static int FN(norm_shown)(const FN(norms) *norm) { return 2 * norm->gates + norm->apart; }

static NORM_BACKWARD_ROW FN(norm_backward_row_of)(const FN(norms) *norm, frnn_range units, FN(matrix) da, int g,
                                                  int gates) {
    return (NORM_BACKWARD_ROW){.n = units.end - units.first,
                               .H = norm->cell->H,
                               .plane = FN(at)(da, 0, norm->plane).data - da.data,
                               .vector = da.vector,
                               .dx_vector = da.vector,
                               .gates = gates,
                               .joint = g == 0 && gates == norm->gates ? norm->joint : gates,
                               .apart = norm->apart};
}

/* From the gradient of h, to which dy is added, those of o, in its place, and of c, added to dc. */
static NEVER_INLINE void FN(normalize_cells_backward)(const FN(norms) *norm, const frnn_part *part,
                                                      const frnn_backward_args *args, const frnn_series *dy, int64_t j0,
                                                      int64_t t, int64_t at, int64_t n, FN(matrix) da,
                                                      const frnn_description *is, REAL *dh, int64_t dh_row, REAL *dc,
                                                      const frnn_team *team) {
    const frnn_cell *cell = norm->cell;
    const frnn_steps *steps = &args->steps;
    const int64_t H = cell->H, u0 = part->units.first, column = FN(norm_shown)(norm) * norm->plane + u0;
    NORM_BACKWARD_ROW row = FN(norm_backward_row_of)(norm, part->units, da, 0, 1);
    int64_t groups;
    row.gain = (const REAL *)cell->norm.c + u0;
    row.bias = cell->norm.bias_c ? (const REAL *)cell->norm.bias_c + u0 : NULL;
    for (int64_t j = part->row_first; j < n; j += part->row_step) {
        const int64_t b = frnn_row(steps, j0 + j), place = frnn_place(steps, t, b);
        const REAL *kept = FN(norm_of_cells)(norm, FN(norm_record)(norm, &args->record, place));
        REAL *sums = FN(table_row)(&norm->cells, cell, part, part->member, team->size, j, &groups);
        row.mean = kept[0], row.inverse = kept[1];
        row.c = FN(shown_cells)(&args->record) + place * H + u0;
        row.o = (const REAL *)args->record.gates + (place * is->recorded + is->output_gate) * H + u0;
        row.dy = dy->data && !cell->w_hr ? FN(series_at)(steps, dy, t, b) + u0 : NULL;
        row.dh = dh + j * dh_row + u0, row.normal = norm->normal + j * H + u0;
        row.da = FN(at)(da, at + j, column).data;
        NORM_KERNELS.norm_output_backward(&row);
        NORM_KERNELS.norm_sums(&row, sums, sums + groups);
    }
    if (part->by_units) frnn_team_barrier(team); /* a row's sums are those of all units */
    row.adds = 1, row.dx_vector = FN(lanes)();
    for (int64_t j = part->row_first; j < n; j += part->row_step) {
        const int64_t place = frnn_place(steps, t, frnn_row(steps, j0 + j));
        row.inverse = FN(norm_of_cells)(norm, FN(norm_record)(norm, &args->record, place))[1];
        FN(norm_means)(norm, &norm->cells, part, team, j, 0, 1, &row);
        row.normal = norm->normal + j * H + u0, row.da = FN(at)(da, at + j, column).data, row.dx = dc + j * H + u0;
        NORM_KERNELS.norm_backward(&row);
    }
}

/* From the gradients of gates g0..g1-1 as they were normalised those of U h, or of the sum, as it was before. */
static NEVER_INLINE void FN(normalize_step_backward)(const FN(norms) *norm, const frnn_part *part,
                                                     const frnn_backward_args *args, int64_t j0, int64_t t, int64_t at,
                                                     int64_t n, FN(matrix) da, int g0, int g1, const frnn_team *team) {
    const frnn_cell *cell = norm->cell;
    const frnn_steps *steps = &args->steps;
    const int64_t H = cell->H, u0 = part->units.first;
    const int each = norm->separate ? g1 - g0 : 1;
    NORM_BACKWARD_ROW row = FN(norm_backward_row_of)(norm, part->units, da, 1, each);
    int64_t groups;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1 && part->by_units) frnn_team_barrier(team); /* a row's sums are those of all units */
        for (int64_t j = part->row_first; j < n; j += part->row_step) {
            REAL *kept = FN(norm_record)(norm, &args->record, frnn_place(steps, t, frnn_row(steps, j0 + j)));
            REAL *of = FN(table_row)(&norm->state, cell, part, part->member, team->size, j, &groups);
            for (int g = g0; g < g1; g += each) {
                const int which = norm->separate ? g0 > 0 : g;
                row.gain = (const REAL *)(norm->separate ? cell->norm.hh : cell->norm.sum) + g * H + u0;
                row.normal = kept + ((norm->separate ? norm->gates : 0) + g) * H + u0;
                row.da = FN(at)(da, at + j, (norm->gates + g) * norm->plane + u0).data;
                if (pass == 0) {
                    NORM_KERNELS.norm_sums(&row, of + 2 * which * groups, of + (2 * which + 1) * groups);
                    continue;
                }
                FN(norm_means)(norm, &norm->state, part, team, j, 2 * which, each, &row);
                row.inverse = FN(norm_inverses)(norm, kept)[norm->separate + which];
                row.dx = FN(at)(da, at + j, g * norm->plane + u0).data;
                NORM_KERNELS.norm_backward(&row);
            }
        }
    }
}

/* Gradients of gains, of this member's units, over the rows of a chunk. */
static NEVER_INLINE void FN(add_gains)(const FN(norms) *norm, const frnn_backward_args *args, const frnn_chunk *chunk,
                                       int64_t j0, FN(matrix) da, const frnn_team *team) {
    const frnn_cell *cell = norm->cell;
    const frnn_steps *steps = &args->steps;
    const int64_t H = cell->H, G = norm->gates;
    const frnn_range units = frnn_share(H, FRNN_UNITS, team->index, team->size), all = {0, frnn_chunk_rows(chunk)};
    const int64_t u0 = units.first;
    const frnn_cell_gradient *d = &args->dcell;
    NORM_BACKWARD_ROW input = FN(norm_backward_row_of)(norm, units, da, 0, norm->gates);
    NORM_BACKWARD_ROW state = FN(norm_backward_row_of)(norm, units, da, 1, norm->gates);
    NORM_BACKWARD_ROW shown = FN(norm_backward_row_of)(norm, units, da, 0, 1);
    NORM_ROW c = {.n = shown.n, .H = H, .gates = 1, .joint = 1, .normal = norm->normal + u0};
    if (units.first == units.end) return;
    FOR_CHUNK_ROWS(chunk, steps, j0, all) {
        const int64_t place = frnn_place(steps, t, b);
        REAL *kept = FN(norm_record)(norm, &args->record, place);
        input.da = state.da = FN(at)(da, at, G * norm->plane + u0).data;
        input.normal = kept + u0, state.normal = kept + (norm->separate ? G * H : 0) + u0;
        if (norm->separate) NORM_KERNELS.norm_add_gain(&input, (REAL *)d->norm_ih + u0);
        NORM_KERNELS.norm_add_gain(&state, (REAL *)(norm->separate ? d->norm_hh : d->norm_sum) + u0);
        if (!cell->norm.c) continue;
        c.mean = FN(norm_of_cells)(norm, kept)[0], c.inverse = FN(norm_of_cells)(norm, kept)[1];
        c.x = FN(shown_cells)(&args->record) + place * H + u0;
        NORM_KERNELS.normalize(&c);
        shown.da = FN(at)(da, at, FN(norm_shown)(norm) * norm->plane + u0).data, shown.normal = c.normal;
        NORM_KERNELS.norm_add_gain(&shown, (REAL *)d->norm_c + u0);
    }
}

/* From the gradients of W x as it was normalised those of W x, in their place, for some rows of a chunk. */
static NEVER_INLINE void FN(normalize_inputs_backward)(const FN(norms) *norm, const frnn_backward_args *args,
                                                       const frnn_chunk *chunk, int64_t j0, FN(matrix) da,
                                                       const frnn_team *team) {
    const frnn_cell *cell = norm->cell;
    const frnn_steps *steps = &args->steps;
    const frnn_part whole = {.units = {0, cell->H}};
    const frnn_range mine = frnn_chunk_share(chunk, team->index, team->size);
    NORM_BACKWARD_ROW row = FN(norm_backward_row_of)(norm, whole.units, da, 0, norm->gates);
    int64_t groups;
    if (!norm->separate) return;
    REAL *sums = FN(table_row)(&norm->input, cell, &whole, 0, 1, team->index, &groups);
    row.gain = cell->norm.ih;
    FOR_CHUNK_ROWS(chunk, steps, j0, mine) {
        row.normal = FN(norm_record)(norm, &args->record, frnn_place(steps, t, b));
        row.inverse = FN(norm_inverses)(norm, row.normal)[0];
        row.da = row.dx = FN(at)(da, at, norm->gates * norm->plane).data;
        NORM_KERNELS.norm_sums(&row, sums, sums + groups);
        FN(norm_means)(norm, &norm->input, &whole, team, team->index, 0, norm->gates, &row);
        NORM_KERNELS.norm_backward(&row);
    }
}

#undef NORM_ROW
#undef NORM_BACKWARD_ROW
#undef NORM_KERNELS
