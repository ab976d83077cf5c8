/* Steps of optimisers over all parameters at once, and the norm of gradients. */
#ifndef FRNN_OPTIMIZERS_H
#define FRNN_OPTIMIZERS_H

#include <stdint.h>

#include "../kernels/kernels.h"

/* A parameter, and what a step reads and writes of it. */
typedef struct {
    frnn_dtype dtype;
    int64_t n;           /* values of p */
    void *p, *moment[2]; /* updated in place; null where the optimiser has no such moment */
    const void *g;       /* (n); or (rows, columns): the gradients of the rows `ids`, and those of all others are 0 */
    const int64_t *ids;  /* (rows), rising; or null */
    int64_t rows, columns;
    int only_rows; /* leave the other rows of p and of the moments as they are */
} frnn_update;

/* One step of `count` parameters, no two of which share memory. Each value is computed by itself, so that bits do not
 * depend on threads. */
void frnn_sgd_step(const frnn_sgd *rule, int64_t count, const frnn_update *updates, int threads);
void frnn_adam_step(const frnn_adam *rule, int64_t count, const frnn_update *updates, int threads);

typedef struct {
    frnn_dtype dtype;
    int64_t n;
    const void *data;
} frnn_values;

/* The sum of the squares of all values of `count` arrays, in double. `work` has room for frnn_squares_blocks doubles:
 * the sums of blocks, whose places do not depend on threads. */
double frnn_squares(int64_t count, const frnn_values *arrays, int threads, double *work);
int64_t frnn_squares_blocks(int64_t count, const frnn_values *arrays);

#endif
