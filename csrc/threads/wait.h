/* Time, and waiting for a word to change: spin first, then sleep. The latter for systems with threads. */
#ifndef FRNN_WAIT_H
#define FRNN_WAIT_H

#include <stdatomic.h>
#include <stdint.h>

#include "../compiler.h"

/* Time that passes. */
int64_t frnn_nanoseconds(void);

#if FRNN_POSIX

#if defined(__x86_64__)
#include <xmmintrin.h>
#define RELAX() _mm_pause()
#elif FRNN_NEON
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() (void)0
#endif

typedef struct {
    atomic_uint value;
    atomic_int sleepers;
} frnn_word;

/* Waits while the word has this value: `spins` pauses, of some 11 nanoseconds each, and then asleep. Returns for how
 * many nanoseconds it slept. */
int64_t frnn_wait_while(frnn_word *word, unsigned value, int spins);

/* Wakes up all that sleep on the word; after a change of its value. */
void frnn_wake(frnn_word *word);

/* To be called in a child of fork(), where a thread of the parent may have held the lock of sleepers. */
void frnn_forget_sleepers(void);

/* Spins of a thread in a barrier, or at the end of a call. */
#define FRNN_WAIT_SPINS 3000

/* The core that the calling thread runs on; -1 where the system does not say. A thread that wakes up while all cores
 * are busy may be put on the core of the thread that woke it. It may stay there long after another core is free, while
 * each of the two waits for the other. So it leaves that core, if it is there. */
int frnn_current_core(void);
void frnn_leave_core(int core);

/* Time that the calling thread computes. */
int64_t frnn_thread_nanoseconds(void);

#endif
#endif
