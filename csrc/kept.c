#ifdef __linux__
#define _DEFAULT_SOURCE /* madvise */
#endif
#include "kept.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "compiler.h"
#if FRNN_POSIX
#include <sys/mman.h>
#endif

#define BLOCKS 32

typedef struct {
    void *data;
    int64_t size;
} block;

/* ---- From the system and back: not through malloc, whose heap cannot shrink below a block that stays ---- */

#if FRNN_POSIX && defined(MAP_ANONYMOUS)
static void *map(int64_t size) {
    void *data = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(data, (size_t)size, MADV_HUGEPAGE); /* packed vectors lie many small pages apart */
#endif
    return data;
}
static void unmap(block b) { munmap(b.data, (size_t)b.size); }
#else /* the block that malloc gave lies before the first aligned address */
static void *map(int64_t size) {
    char *data = malloc((size_t)size + 64);
    if (!data) return NULL;
    char *aligned = data + 64 - (uintptr_t)data % 64;
    ((char **)aligned)[-1] = data;
    return aligned;
}
static void unmap(block b) { free(((char **)b.data)[-1]); }
#endif

/* ---- What is kept ---- */

int64_t frnn_kept_most;

static block kept[BLOCKS]; /* oldest first */
static int count;
static int64_t total;
/* Held while the blocks are looked at. No thread waits for it: a call that finds it taken asks the system for memory,
 * or gives it back to the system. So does a child that was forked while it was taken, for ever. */
static atomic_flag busy = ATOMIC_FLAG_INIT;

static int enter(void) { return !atomic_flag_test_and_set_explicit(&busy, memory_order_acquire); }
static void leave(void) { atomic_flag_clear_explicit(&busy, memory_order_release); }

static block remove_at(int k) {
    const block b = kept[k];
    memmove(kept + k, kept + k + 1, (size_t)(--count - k) * sizeof *kept);
    total -= b.size;
    return b;
}

void *frnn_kept_take(int64_t size, int64_t *actual) {
    block found = {0};
    size = (size + 4095) / 4096 * 4096;
    if (enter()) {
        for (int k = count; k-- > 0 && !found.data;) /* the youngest may still be in a cache */
            if (kept[k].size >= size && kept[k].size - size <= size / 8) found = remove_at(k);
        leave();
    }
    if (!found.data) found = (block){map(size), size};
    *actual = found.size;
    return found.data;
}

void frnn_kept_give(void *data, int64_t size) {
    const int64_t limit = frnn_kept_most;
    block out[BLOCKS + 1] = {{data, size}};
    int displaced = 1;
    if (size <= limit && enter()) {
        displaced = 0;
        while (count == BLOCKS || total + size > limit) out[displaced++] = remove_at(0);
        kept[count++] = (block){data, size};
        total += size;
        leave();
    }
    while (displaced > 0) unmap(out[--displaced]);
}

/* ---- Memory with owners ---- */

#define HEAD 64

typedef struct {
    atomic_int owners;
    void *block;  /* what malloc gave; null if it is a kept block */
    int64_t size; /* of a kept block */
} head;

static head *head_of(void *data) { return (head *)(void *)((char *)data - HEAD); }

void *frnn_shared_new(int64_t size) {
    head new = {.owners = 1};
    char *data;
    size += HEAD;
    if (size >= FRNN_KEPT_LEAST) {
        data = frnn_kept_take(size, &new.size);
    } else {
        data = new.block = malloc((size_t)size + 64);
        if (data) data += (64 - (uintptr_t)data % 64) % 64;
    }
    if (!data) return NULL;
    memcpy(data, &new, sizeof new);
    return data + HEAD;
}

void *frnn_shared_own(void *data) {
    if (data) atomic_fetch_add_explicit(&head_of(data)->owners, 1, memory_order_relaxed);
    return data;
}

void frnn_shared_disown(void *data) {
    if (!data || atomic_fetch_sub_explicit(&head_of(data)->owners, 1, memory_order_acq_rel) > 1) return;
    const head old = *head_of(data);
    if (old.block)
        free(old.block);
    else
        frnn_kept_give(head_of(data), old.size);
}
