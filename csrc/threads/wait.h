/* Waiting for a word to change: spin first, then sleep. For systems with threads. */
#ifndef FRNN_WAIT_H
#define FRNN_WAIT_H

#include "system.h"

#if FRNN_THREADS

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#define RELAX() _mm_pause()
#elif FRNN_NEON
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() (void)0
#endif

/* Spins of a thread in a barrier, or at the end of a call. */
#define FRNN_WAIT_SPINS 3000

/* Waits while the word has this value: `spins` pauses, of some 11 nanoseconds each, and then asleep. Returns for how
 * many nanoseconds it slept. */
static inline int64_t frnn_wait_while(frnn_word *w, unsigned value, int spins) {
    for (int spin = 0; spin < spins; spin++) {
        if (atomic_load_explicit(&w->value, memory_order_acquire) != value) return 0;
        RELAX();
    }
    const int64_t begin = frnn_nanoseconds();
    frnn_sleep_while(w, value);
    return frnn_nanoseconds() - begin;
}

#endif
#endif
