/* Gradients of tables: the rows of equal ids, added up. */
#ifndef FRNN_ROWS_H
#define FRNN_ROWS_H

#include <stdint.h>

#include "../fastrnn.h"

/* Sort N ids, each at least 0 and at most `largest`. `places` (N) are their places by rising id, equal ids in their
 * order; `starts` (up to N + 1) says where in `places` each of the distinct ids begins, and ends with N. `work` has
 * room for N. Returns how many distinct ids there are. */
int64_t frnn_sort_ids(int64_t N, const int64_t *ids, int64_t largest, int64_t *places, int64_t *starts, int64_t *work);

/* sums (count, columns): of the rows of values (N, columns) with the same id, in their order. Of frnn_sort_ids. */
void frnn_sum_rows(frnn_dtype dtype, int64_t count, int64_t columns, const int64_t *places, const int64_t *starts,
                   const void *values, void *sums, int threads);

#endif
