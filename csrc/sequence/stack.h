/* A stack: layers, one upon the other, each of one direction or two, forwards and for inference.
 *
 * fastrnn/run.py has the same walk for any engine. Here it needs no Python: for streams, and for the C interface.
 */
#ifndef FRNN_STACK_H
#define FRNN_STACK_H

#include "../fastrnn.h"

/* All cells have one dtype and, but for I, the same sizes. */
typedef struct {
    int layers, directions;        /* L, and D: 1 or 2 */
    int reverse[2];                /* of each direction: does it run from the end to the start? */
    const frnn_cell *const *cells; /* (L*D): the k-th is direction k % D of layer k / D */
} frnn_stack;

typedef struct {
    frnn_steps steps;    /* without starts; `reverse` is the stack's to say */
    frnn_series x;       /* in      (T, B, I) */
    frnn_series y;       /* out     (T, B, D*O) */
    void *h, *c;         /* in, out (L*D, S, O), (L*D, S, has_c*H); c null unless cells have one */
    int64_t S;           /* rows of h and c: B, or more where there are `rows` */
    const int64_t *rows; /* in      (B), distinct, or null: row b's state is row rows[b] of h and c */
} frnn_stack_args;

/* Workspace in bytes, for at most `threads` threads; -1 if a size does not fit BLAS's integer or an address. */
int64_t frnn_stack_workspace(const frnn_stack *stack, const frnn_stack_args *args, int threads);

/* Run all layers; `workspace` is 64-byte aligned, and as large as the function above says for at least as many rows. */
void frnn_stack_run(const frnn_stack *stack, const frnn_stack_args *args, int threads, void *workspace);

/* Copy rows to `own` if they are n distinct ones of 0..B-1; else return 0. `last` (B) has the last turn that each row
 * was in: zeros before the first, which is 1. */
int frnn_distinct_rows(int64_t n, const int64_t *rows, int64_t B, int64_t turn, int64_t *last, int64_t *own);

#endif
