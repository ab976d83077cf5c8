/* Attention: each query reads a mean of a memory's steps, weighted by how well their keys fit.
 *
 *     weights[b, u] = softmax over s < lengths[b] of queries[u, b] . keys[s, b]
 *     joined[u, b] = [sum over s of weights[b, u, s]*values[s, b], queries[u, b]]
 *
 * All is read and written in place. A row b is computed by one thread.
 */
#ifndef FRNN_ATTENTION_H
#define FRNN_ATTENTION_H

#include "../fastrnn.h"

typedef struct {
    frnn_dtype dtype;
    int64_t U, S, B, Q, M;
    const int64_t *lengths;               /* (B), each in 0..S; null: all S */
    frnn_series queries, keys, values;    /* (U, B, Q), (S, B, Q), (S, B, M) */
    frnn_series joined;                   /* (U, B, M + Q); out, or backwards its gradient */
    void *weights;                        /* (B, U, S); out, or in; 0 past a memory's end */
    frnn_series dqueries, dkeys, dvalues; /* out  backwards */
} frnn_attention_args;

void frnn_attend(const frnn_attention_args *args, int threads);
int64_t frnn_attend_backward_workspace(const frnn_attention_args *args, int threads);
void frnn_attend_backward(const frnn_attention_args *args, int threads, void *workspace);

#endif
