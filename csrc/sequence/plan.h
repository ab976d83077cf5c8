/* Two decisions about a pass. The first is how much of a sequence lies in the workspace at a time. It does not depend
 * on the number of threads, so that sums over steps and rows are split in the same places whatever that is. The second
 * is how many threads there are, and what they share. */
#ifndef FRNN_PLAN_H
#define FRNN_PLAN_H

#include "walk.h"

/* Fewer weights than this are packed by one thread, for to wake another would take longer. */
#define PACK_ALONE 200000

typedef struct {
    int64_t block_rows;  /* rows that run through all of time together */
    int64_t chunk_steps; /* steps whose input projection is one product */
    int64_t chunk_rows;  /* block_rows * chunk_steps */
    int direct;          /* x (and dx) of a chunk is one contiguous block already */
} frnn_plan;

/* The plan of a pass, from sizes, lengths and strides; no array is read. `row_bytes` are the bytes of a row in the
 * widest array of the workspace that holds a chunk. */
frnn_plan frnn_forward_plan(const frnn_cell *cell, const frnn_forward_args *args, int64_t row_bytes);
frnn_plan frnn_backward_plan(const frnn_cell *cell, const frnn_backward_args *args, int64_t row_bytes);

/* Does every size and leading dimension fit the integer of what multiplies? BLAS's may have 32 bits. */
int frnn_fits(const frnn_cell *cell, const frnn_steps *steps, const frnn_plan *plan);

/* The most members that one direction's team can have, of at most `threads`. */
int frnn_most_members(const frnn_cell *cell, const frnn_steps *steps, int threads);

typedef struct {
    int threads;
    int by_units;  /* members share the hidden units; else the rows of the batch */
    int at_once;   /* two directions, each with half of the threads */
    int64_t alone; /* about how many nanoseconds one thread would take */
} frnn_split_plan;

/* What takes the least time for a pass over `count` (1 or 2) directions with at most `threads` threads and vectors of
 * `lanes` values. Both directions are those of one layer, so one cell and its steps stand for both. */
frnn_split_plan frnn_choose_threads(const frnn_cell *cell, const frnn_steps *steps, frnn_pass pass, int count,
                                    int lanes, int threads);

#endif
