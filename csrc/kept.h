/* Blocks of memory that are kept for the next call: new ones cost a page fault every 4 KiB, more than the work on them. */
#ifndef FRNN_KEPT_H
#define FRNN_KEPT_H

#include <stdint.h>

#define FRNN_KEPT_BLOCKS 32

/* A kept block of at least `size` bytes and little more, whose size goes to `*actual`; null if there is none. */
void *frnn_kept_take(int64_t size, int64_t *actual);

/* Keep a block. Returns how many were displaced, which the caller frees: itself, perhaps. At most `limit` bytes are kept. */
int frnn_kept_give(void *block, int64_t size, int64_t limit, void *displaced[FRNN_KEPT_BLOCKS + 1]);

/* Ask for large pages under a new block. */
void frnn_kept_advise(void *block, int64_t size);

#endif
