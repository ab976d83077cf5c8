/* Which rows a step has, where a state comes from, and how work is shared. Free of dtypes.
 *
 * Rows are taken in order of falling length, so that those valid at any step t are the first active(t) of them: `j`
 * counts rows in that order, `b` in the caller's.
 */
#ifndef FRNN_WALK_H
#define FRNN_WALK_H

#include "../kernels/kernels.h"

typedef struct {
    int64_t first, end;
} frnn_range;

/* A contiguous share of 0..n-1, in multiples of `grain`. */
static inline frnn_range frnn_share(int64_t n, int64_t grain, int index, int size) {
    const int64_t grains = (n + grain - 1) / grain;
    const int64_t first = grains * index / size * grain, end = grains * (index + 1) / size * grain;
    return (frnn_range){FRNN_MIN(first, n), FRNN_MIN(end, n)};
}

static inline int64_t frnn_row(const frnn_steps *s, int64_t j) { return s->order ? s->order[j] : j; }

static inline int64_t frnn_length(const frnn_steps *s, int64_t b) { return s->lengths ? s->lengths[b] : s->T; }

/* How many of the rows j0..j1-1 are valid at step t. */
static inline int64_t frnn_active(const frnn_steps *s, int64_t j0, int64_t j1, int64_t t) {
    if (!s->lengths) return t < s->T ? j1 - j0 : 0;
    int64_t low = j0, high = j1; /* lengths fall along j: find the first that is too short */
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (s->lengths[s->order[middle]] > t)
            low = middle + 1;
        else
            high = middle;
    }
    return low - j0;
}

/* Where row b of step t lies among the rows of a (T, B) array, or of its valid rows alone. */
static inline int64_t frnn_place(const frnn_steps *s, int64_t t, int64_t b) {
    return (s->starts ? s->starts[t] : t * s->B) + b;
}

/* Is t row b's first step in running order? */
static inline int frnn_first(const frnn_steps *s, int64_t t, int64_t b) {
    return s->reverse ? t + 1 == frnn_length(s, b) : t == 0;
}

/* Is the state that row b's step t starts from zeroed? A boundary belongs to the later of its two steps. */
static inline int frnn_cut_before(const frnn_steps *s, int64_t t, int64_t b) {
    if (!s->resets) return 0;
    if (!s->reverse) return s->resets[t * s->B + b] != 0;
    return t + 1 < frnn_length(s, b) && s->resets[(t + 1) * s->B + b] != 0;
}

/* Is the state that row b's step t leaves zeroed before its next step? Never after its last: that is the final state.
 */
static inline int frnn_cut_after(const frnn_steps *s, int64_t t, int64_t b) {
    if (!s->resets) return 0;
    if (s->reverse) return t > 0 && s->resets[t * s->B + b] != 0;
    return t + 1 < frnn_length(s, b) && s->resets[(t + 1) * s->B + b] != 0;
}

/* Some consecutive steps of the rows j0..j1-1. Arrays for a chunk hold the valid rows only, step after step: step t has
 * rows offset[t - low] .. offset[t - low + 1] - 1. */
#define FRNN_CHUNK_STEPS 256
typedef struct {
    int64_t low, high; /* steps low..high-1 */
    int64_t offset[FRNN_CHUNK_STEPS + 1];
} frnn_chunk;

static inline void frnn_chunk_fill(frnn_chunk *chunk, const frnn_steps *s, int64_t j0, int64_t j1, int64_t low,
                                   int64_t high) {
    chunk->low = low, chunk->high = high, chunk->offset[0] = 0;
    for (int64_t t = low; t < high; t++)
        chunk->offset[t - low + 1] = chunk->offset[t - low] + frnn_active(s, j0, j1, t);
}

static inline int64_t frnn_chunk_rows(const frnn_chunk *chunk) { return chunk->offset[chunk->high - chunk->low]; }

static inline frnn_range frnn_chunk_share(const frnn_chunk *chunk, int index, int size) {
    return frnn_share(frnn_chunk_rows(chunk), 1, index, size);
}

/* N, and the units that lie side by side in da: all, or a head's if a head is not a whole number of FRNN_UNITS. Then
 * vectors begin anew with each head, and members share whole heads. */
static inline int64_t frnn_heads(const frnn_cell *cell) { return FRNN_MAX(1, cell->heads); }
static inline int64_t frnn_span(const frnn_cell *cell) {
    return cell->heads > 1 && cell->H / cell->heads % FRNN_UNITS ? cell->H / cell->heads : cell->H;
}

/* Which of a block's rows and which units a member of a team computes. If members share the units, they need barriers
 * within a step, but each reads only a part of the weights, which may fit into its cache. If they share the rows, each
 * has a range of them, so that no two members write near each other; with lengths each has every size-th row instead,
 * for the rows at the end are the shortest. */
typedef struct {
    int64_t row_first, row_end, row_step;
    frnn_range units, outputs; /* of H and of O */
    int by_units;
    int member;
} frnn_part;

static inline frnn_part frnn_part_of(const frnn_cell *cell, const frnn_steps *s, int by_units, int64_t rows, int index,
                                     int size) {
    if (by_units && size > 1) {
        const int64_t grain = frnn_span(cell) < cell->H ? frnn_span(cell) : FRNN_UNITS;
        const frnn_range units = frnn_share(cell->H, grain, index, size);
        return (frnn_part){0, rows, 1, units, frnn_share(cell->O, grain, index, size), 1, index};
    }
    const frnn_range own = frnn_share(rows, 1, index, size), units = {0, cell->H}, outputs = {0, cell->O};
    if (s->lengths) return (frnn_part){index, rows, size, units, outputs, 0, index};
    return (frnn_part){own.first, own.end, 1, units, outputs, 0, index};
}

/* How many of the first n rows are a part's. */
static inline int64_t frnn_part_rows(const frnn_part *part, int64_t n) {
    n = FRNN_MIN(n, part->row_end);
    return n > part->row_first ? (n - part->row_first + part->row_step - 1) / part->row_step : 0;
}

#endif
