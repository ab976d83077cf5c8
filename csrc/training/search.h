/* A step of a search: the next ids, given logits (rows, V). Banned ids, rising, are never taken while there are others.
 * Sums and scores are double, whatever the logits are. A row is computed by one thread.
 */
#ifndef FRNN_SEARCH_H
#define FRNN_SEARCH_H

#include "../fastrnn.h"

typedef struct {
    frnn_dtype dtype;
    int64_t rows, V;
    const void *logits;
    int64_t bans;
    const int64_t *banned;
} frnn_logits;

/* Of frnn_draw and frnn_beam. */
int64_t frnn_search_workspace(const frnn_logits *logits, int threads);

/* Each row's likeliest id, ids (rows): the first of those with the largest logit. NaN counts as the largest. */
void frnn_greedy(const frnn_logits *logits, int64_t *ids, int threads);

/* An id drawn from softmax(logits / temperature) of each row, by its uniform number in [0, 1). Where there are no
 * probabilities (NaN, infinity, all ids banned), id 0. temperature > 0. */
void frnn_draw(const frnn_logits *logits, double temperature, const double *uniforms, int64_t *ids, int threads,
               void *workspace);

/* A step of a beam search: rows are groups of `width` sequences, which have scores, the logarithms of their
 * probabilities. The best of all ways to go on with a sequence of the group by one id are next: best (groups, width),
 * falling, their parents and ids. Of equal ones the first counts as better, and NaN as -infinity. A sequence that is
 * done goes on with the id `stop` alone, at no cost. Where there are fewer ways than `width`, the rest are sequences
 * that are done, with scores of -infinity. */
typedef struct {
    frnn_logits logits;
    int64_t width, stop;
    const double *scores;   /* (groups, width) */
    const uint8_t *done;    /* (groups, width) */
    int64_t *parents, *ids; /* out */
    double *best;           /* out */
} frnn_beam_args;

void frnn_beam(const frnn_beam_args *args, int threads, void *workspace);

#endif
