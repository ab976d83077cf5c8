/* What threads need of the operating system: system_posix.c and system_windows.c. */
#ifndef FRNN_SYSTEM_H
#define FRNN_SYSTEM_H

#include <stdatomic.h>
#include <stdint.h>

#include "../compiler.h"

/* Time that passes. */
int64_t frnn_nanoseconds(void);

#if FRNN_THREADS

/* A word on which threads can sleep. */
typedef struct {
    atomic_uint value;
    atomic_int sleepers;
} frnn_word;

/* Sleeps while the word has this value. */
void frnn_sleep_while(frnn_word *word, unsigned value);

/* Wakes up all that sleep on the word; after a change of its value. */
void frnn_wake(frnn_word *word);

/* Starts a thread that runs for as long as the process, without the caller's signals. Returns whether it did. */
int frnn_start_thread(void (*main)(void *), void *argument);

/* Has `in_child` called in every child of fork(), which has none of its parent's threads. Words on which they slept can
 * be used there. Only the first call counts. */
void frnn_watch_forks(void (*in_child)(void));

/* Time that the calling thread computes; -1 where the system does not say. */
int64_t frnn_thread_nanoseconds(void);

/* The core that the calling thread runs on; -1 where the system does not say. A thread that wakes up while all cores
 * are busy may be put on the core of the thread that woke it. It may stay there long after another core is free, while
 * each of the two waits for the other. So it leaves that core, if it is there. */
int frnn_current_core(void);
void frnn_leave_core(int core);

#endif
#endif
