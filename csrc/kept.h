/* Large blocks of memory. What is given back is kept for the next call, for new memory costs a page fault every 4 KiB,
 * at times more than the work on it. */
#ifndef FRNN_KEPT_H
#define FRNN_KEPT_H

#include <stdint.h>

/* How many bytes are kept at most, which is set once: FASTRNN_KEEP_MIB. Smaller blocks than the least are malloc's to
 * keep. */
extern int64_t frnn_kept_most;
#define FRNN_KEPT_LEAST (1 << 17)

/* A block of at least `size` bytes, 64-byte aligned, and `*actual` with its size; null if there is no memory. */
void *frnn_kept_take(int64_t size, int64_t *actual);

/* Give a block back. The oldest blocks go first. */
void frnn_kept_give(void *data, int64_t size);

/* Memory of any size, 64-byte aligned, with owners that are counted: one to begin with, and it goes back with the last.
 * Null if there is no memory; nothing happens to null. */
void *frnn_shared_new(int64_t size);
void *frnn_shared_own(void *data); /* one owner more */
void frnn_shared_disown(void *data);

#endif
