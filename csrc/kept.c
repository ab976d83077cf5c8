#ifdef __linux__
#define _DEFAULT_SOURCE /* madvise */
#endif
#include "kept.h"

#include <stdatomic.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

typedef struct {
    void *data;
    int64_t size;
} block;

static block kept[FRNN_KEPT_BLOCKS]; /* oldest first */
static int count;
static int64_t total;
/* Only ever tried: who does not get it does without. A child of fork() that finds it taken keeps nothing. */
static atomic_flag busy = ATOMIC_FLAG_INIT;

static block remove_at(int k) {
    const block b = kept[k];
    memmove(kept + k, kept + k + 1, (size_t)(--count - k) * sizeof *kept);
    total -= b.size;
    return b;
}

void *frnn_kept_take(int64_t size, int64_t *actual) {
    block found = {0};
    if (atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) return NULL;
    for (int k = count; k-- > 0;) /* the youngest may still be in a cache */
        if (kept[k].size >= size && kept[k].size - size <= size / 8) {
            found = remove_at(k);
            break;
        }
    atomic_flag_clear_explicit(&busy, memory_order_release);
    *actual = found.size;
    return found.data;
}

int frnn_kept_give(void *data, int64_t size, int64_t limit, void *displaced[FRNN_KEPT_BLOCKS + 1]) {
    int out = 0;
    if (size > limit || atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {
        displaced[0] = data;
        return 1;
    }
    while (count == FRNN_KEPT_BLOCKS || total + size > limit) displaced[out++] = remove_at(0).data;
    kept[count++] = (block){data, size};
    total += size;
    atomic_flag_clear_explicit(&busy, memory_order_release);
    return out;
}

void frnn_kept_advise(void *data, int64_t size) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 1 << 21, first = ((uintptr_t)data + page - 1) / page * page, end = ((uintptr_t)data + (uintptr_t)size) / page * page;
    if (end > first) madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
    (void)data, (void)size;
#endif
}
