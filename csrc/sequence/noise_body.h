/* What is random in a run for training, and zoneout, for one dtype. Included by sequence_body.h.
 *
 * Masks are drawn where they are used, a row at a time, and once more backwards. Only that of the state, which is the
 * same at all steps, comes from the caller. Zoneout is a stage of its own after the cell's kernel and the projection,
 * and backwards before them, so no cell knows of it. Without noise, which is inference, it is the expectation.
 */

typedef struct {
    const frnn_noise *noise; /* or null */
    const frnn_cell *cell;
    const frnn_steps *steps;
    int zones_h, zones_c; /* are there units of h, or of c, that may keep the value of the step before? */
    REAL *mask_h;         /* (block rows, O) of h, whose outputs members share otherwise than they share units */
    REAL *mask;           /* (block rows, H) of c, or of the candidate */
    REAL *fresh;          /* (block rows, H) forwards: c_t before zoneout */
    REAL *met[2];         /* (block rows, O) forwards: the h of both steps as U meets it */
    REAL *kept_h;         /* (block rows, O) backwards: what of dh goes around the step */
    REAL *kept_c;         /* (block rows, H) likewise of dc */
    REAL *through;        /* (block rows, O) backwards: what comes through U, before it is masked */
} FN(noise);

/* What the random words decide about. */
enum { ZONES_H, ZONES_C, DROPS_CANDIDATE };

/* Fill in what is all zeros, and stays so if nothing is random and there is no zoneout. */
static void FN(noise_start)(FN(noise) *n, const frnn_noise *noise, const frnn_cell *cell, const frnn_steps *steps) {
    n->zones_h = noise ? noise->zoneout > 0 : cell->zoneout > 0;
    n->zones_c = noise ? noise->zoneout_cell > 0 : cell->zoneout_cell > 0;
    n->noise = noise, n->cell = cell, n->steps = steps;
}

static void FN(noise_layout)(FN(noise) *n, int64_t block_rows, int backwards, char *base, size_t *used) {
    if (!n->noise && !n->zones_h && !n->zones_c) return;
    const int64_t H = n->cell->H, O = n->cell->O;
    const int64_t h = n->zones_h ? block_rows * O : 0, c = n->zones_c ? block_rows * H : 0;
    const int64_t state = n->noise && n->noise->state ? block_rows * O : 0;
    n->mask_h = FN(take)(base, used, n->noise ? h : 0);
    n->mask = FN(take)(base, used, n->noise && (n->zones_c || n->noise->candidate) ? block_rows * H : 0);
    n->fresh = FN(take)(base, used, backwards ? 0 : c);
    for (int k = 0; k < 2; k++) n->met[k] = FN(take)(base, used, backwards ? 0 : state);
    n->kept_h = FN(take)(base, used, backwards ? h : 0);
    n->kept_c = FN(take)(base, used, backwards ? c : 0);
    n->through = FN(take)(base, used, backwards ? state : 0);
}

/* The mask of row b, which is row j of its block, at step t: its units u0..u1-1. */
static const REAL *FN(drawn)(const FN(noise) *n, int what, uint32_t threshold, double scale, int64_t j, int64_t t,
                             int64_t b, int64_t u0, int64_t u1) {
    const frnn_noise *noise = n->noise;
    REAL *mask = what == ZONES_H ? n->mask_h + j * n->cell->O + u0 : n->mask + j * n->cell->H + u0;
    const frnn_mask_of of = {noise->key, (uint32_t)what, (uint32_t)(noise->rows ? noise->rows[b] : b),
                             (uint32_t)(noise->first_step + t), threshold};
    frnn_kernels()->KERNELS_OF.draw_mask(&of, scale, u0, u1, mask);
    return mask;
}

/* What the candidate of a row is multiplied by, or null. */
static const REAL *FN(candidate_mask)(const FN(noise) *n, int64_t j, int64_t t, int64_t b, frnn_range units) {
    const frnn_noise *noise = n->noise;
    if (!noise || !noise->candidate) return NULL;
    return FN(drawn)(n, DROPS_CANDIDATE, noise->candidate, noise->candidate_scale, j, t, b, units.first, units.end);
}

/* What h of row b is multiplied by where it meets U, or null. */
static const REAL *FN(state_mask)(const FN(noise) *n, int64_t b) {
    return n->noise && n->noise->state ? (const REAL *)n->noise->state + b * n->cell->O : NULL;
}

static void FN(times)(int64_t n, const REAL *a, const REAL *mask, REAL *product) {
    for (int64_t k = 0; k < n; k++) product[k] = a[k] * mask[k];
}

/* ---- Forwards ---- */

/* Both values are arguments, so that compilers may read both and choose without a branch. */
static ALWAYS_INLINE REAL FN(chosen)(REAL mask, REAL fresh, REAL before) { return mask == 0 ? before : fresh; }

/* Zoneout of step t, for this member's part of `count` rows. In h_next is the new h, in `fresh` the new c; where the
 * mask is zero, a unit keeps what it was before. */
static void FN(zone_step)(const FN(noise) *n, const frnn_part *part, int64_t j0, int64_t t, int64_t count,
                          const REAL *h_prev, REAL *h_next, REAL *c, const frnn_forward_args *args) {
    const int64_t H = n->cell->H, O = n->cell->O, o0 = part->outputs.first, outputs = part->outputs.end - o0;
    const int64_t u0 = part->units.first, units = part->units.end - u0;
    const frnn_noise *noise = n->noise;
    for (int64_t j = part->row_first; j < count; j += part->row_step) {
        const int64_t b = frnn_row(n->steps, j0 + j), place = frnn_place(n->steps, t, b);
        if (n->zones_h) {
            REAL *h = h_next + j * O + o0, *y = FN(series_at)(n->steps, &args->y, t, b) + o0;
            REAL *fresh = n->zones_c ? NULL : args->record.fresh;
            const REAL *mask = noise ? FN(drawn)(n, ZONES_H, noise->zoneout, 1, j, t, b, o0, o0 + outputs) : NULL;
            if (fresh) memcpy(fresh + place * H + o0, h, (size_t)outputs * sizeof(REAL));
            const REAL *before = h_prev + j * O + o0, renewed = (REAL)(1 - n->cell->zoneout);
            if (mask)
                for (int64_t k = 0; k < outputs; k++) y[k] = h[k] = FN(chosen)(mask[k], h[k], before[k]);
            else
                for (int64_t k = 0; k < outputs; k++) y[k] = h[k] = before[k] + renewed * (h[k] - before[k]);
        }
        if (n->zones_c) {
            const REAL *mask = noise ? FN(drawn)(n, ZONES_C, noise->zoneout_cell, 1, j, t, b, u0, u0 + units) : NULL;
            const REAL *fresh = n->fresh + j * H + u0, renewed = (REAL)(1 - n->cell->zoneout_cell);
            REAL *state = c + j * H + u0, *cells = args->record.cells;
            if (mask)
                for (int64_t k = 0; k < units; k++) state[k] = FN(chosen)(mask[k], fresh[k], state[k]);
            else
                for (int64_t k = 0; k < units; k++) state[k] += renewed * (fresh[k] - state[k]);
            if (cells) memcpy(cells + place * H + u0, state, (size_t)units * sizeof(REAL));
        }
    }
}

/* h as the next step's product meets it, for this member's part of `count` rows. */
static void FN(meet)(const FN(noise) *n, const frnn_part *part, int64_t j0, int64_t count, const REAL *h, REAL *met) {
    const int64_t O = n->cell->O, o0 = part->outputs.first, outputs = part->outputs.end - o0;
    for (int64_t j = part->row_first; j < count; j += part->row_step)
        FN(times)(outputs, h + j * O + o0, FN(state_mask)(n, frnn_row(n->steps, j0 + j)) + o0, met + j * O + o0);
}

/* ---- Backwards ---- */

/* The gradient of a state is parted: where the mask lets the new value stay it goes on, else it is kept. */
static void FN(unzone)(int64_t n, const REAL *mask, const REAL *added, REAL *gradient, REAL *kept) {
    for (int64_t k = 0; added && k < n; k++) gradient[k] += added[k];
    for (int64_t k = 0; k < n; k++) {
        const REAL all = gradient[k];
        gradient[k] = mask[k] != 0 ? all : 0, kept[k] = mask[k] != 0 ? 0 : all;
    }
}

/* The gradients of the new h and c from those of h_t and c_t; dh takes dy up. */
static void FN(unzone_step)(const FN(noise) *n, const frnn_part *part, int64_t j0, int64_t t, int64_t count,
                            const frnn_series *dy, REAL *dh, REAL *dc) {
    const int64_t H = n->cell->H, O = n->cell->O, o0 = part->outputs.first, o1 = part->outputs.end;
    const int64_t u0 = part->units.first, u1 = part->units.end;
    for (int64_t j = part->row_first; j < count; j += part->row_step) {
        const int64_t b = frnn_row(n->steps, j0 + j);
        if (n->zones_h) {
            const REAL *mask = FN(drawn)(n, ZONES_H, n->noise->zoneout, 1, j, t, b, o0, o1);
            const REAL *added = dy->data ? FN(series_at)(n->steps, dy, t, b) + o0 : NULL;
            FN(unzone)(o1 - o0, mask, added, dh + j * O + o0, n->kept_h + j * O + o0);
        }
        if (n->zones_c) {
            const REAL *mask = FN(drawn)(n, ZONES_C, n->noise->zoneout_cell, 1, j, t, b, u0, u1);
            FN(unzone)(u1 - u0, mask, NULL, dc + j * H + u0, n->kept_c + j * H + u0);
        }
    }
}

/* What came through U joins the rest of the gradient of the h before, if there is `around` some already, and what went
 * around the step. */
static void FN(rejoin)(const FN(noise) *n, const frnn_part *part, int64_t j0, int64_t count, int around, REAL *dh,
                       REAL *dc) {
    const int64_t H = n->cell->H, O = n->cell->O, o0 = part->outputs.first, o1 = part->outputs.end;
    if (!n->through && !n->zones_h && !n->zones_c) return;
    for (int64_t j = part->row_first; j < count; j += part->row_step) {
        const REAL *mask = FN(state_mask)(n, frnn_row(n->steps, j0 + j)), *through = n->through + j * O;
        REAL *to = dh + j * O;
        if (mask && around)
            for (int64_t o = o0; o < o1; o++) to[o] += through[o] * mask[o];
        else if (mask)
            FN(times)(o1 - o0, through + o0, mask + o0, to + o0);
        for (int64_t o = o0; n->zones_h && o < o1; o++) to[o] += n->kept_h[j * O + o];
        for (int64_t u = part->units.first; n->zones_c && u < part->units.end; u++)
            dc[j * H + u] += n->kept_c[j * H + u];
    }
}

/* h_{t-1} as U met it, into row r of a matrix. */
static void FN(put_met)(FN(matrix) m, int64_t r, int64_t O, const REAL *h_prev, const REAL *mask) {
    REAL product[FRNN_DROPOUT_GROUP];
    for (int64_t o = 0; o < O; o += FRNN_DROPOUT_GROUP) {
        const int64_t some = FRNN_MIN(FRNN_DROPOUT_GROUP, O - o);
        FN(times)(some, h_prev + o, mask + o, product);
        FN(put)(m, r, o, some, product);
    }
}
