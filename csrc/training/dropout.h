/* Dropout of an array, with random words from a counter-based generator. */
#ifndef FRNN_TRAINING_DROPOUT_H
#define FRNN_TRAINING_DROPOUT_H

#include "../fastrnn.h"

/* y[k] = scale*x[k] for the k whose random word is at least `threshold`, and 0 for the others, whatever x[k] is. A word
 * depends on `key` and on the place first + k alone. n values; y may be x. At most `threads` threads. */
void frnn_dropout(frnn_dtype dtype, int64_t first, int64_t n, const void *x, uint64_t key, uint32_t threshold,
                  double scale, int threads, void *y);

#endif
