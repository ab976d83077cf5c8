/* Large blocks of memory. What is given back is kept for the next call, for new memory costs a page fault every 4 KiB,
 * at times more than the work on it. */
#ifndef FRNN_KEPT_H
#define FRNN_KEPT_H

#include <stdint.h>

/* A block of at least `size` bytes, 64-byte aligned, and `*actual` with its size; null if there is no memory. */
void *frnn_kept_take(int64_t size, int64_t *actual);

/* Give a block back. At most `limit` bytes are kept, and the oldest blocks go first. */
void frnn_kept_give(void *data, int64_t size, int64_t limit);

#endif
