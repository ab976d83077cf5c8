/* Softmax and cross-entropy of a linear layer's outputs, with all gradients, in one pass over the classes.
 *
 * N rows, I inputs, V classes; x (N, I), weight (V, I), bias (V) or null, targets (N) in 0..V-1, shares (N): the weight
 * of each row's loss in the sum that the gradients are of. The logits, N x V, are held for a part of the rows at a
 * time.
 */
#ifndef FRNN_SOFTMAX_H
#define FRNN_SOFTMAX_H

#include "../fastrnn.h"

typedef struct {
    frnn_dtype dtype;
    int64_t N, I, V;
    const void *x, *weight, *bias;
    const int64_t *targets;
    const double *shares;
    double *losses;             /* out  (N): -log softmax(logits)[target] */
    void *dx, *dweight, *dbias; /* out  or null; dx and dweight are both there, or only the losses are wanted */
} frnn_cross_entropy_args;

int64_t frnn_cross_entropy_workspace(const frnn_cross_entropy_args *args, int threads);
void frnn_cross_entropy(const frnn_cross_entropy_args *args, int threads, void *workspace);

#endif
