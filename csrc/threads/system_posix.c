#ifdef __linux__
#define _GNU_SOURCE /* syscall, sched.h */
#endif
#include "system.h"

#if !defined(_WIN32)
#include <time.h>

static int64_t read_clock(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t frnn_nanoseconds(void) { return read_clock(CLOCK_MONOTONIC); }
#endif

#if FRNN_POSIX
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

int64_t frnn_thread_nanoseconds(void) { return read_clock(CLOCK_THREAD_CPUTIME_ID); }

/* ---- Sleep ---- */

#if defined(__linux__) && !defined(FRNN_NO_FUTEX)
static void forget_sleepers(void) {}

void frnn_sleep_while(frnn_word *w, unsigned value) {
    atomic_fetch_add(&w->sleepers, 1);
    while (atomic_load(&w->value) == value) syscall(SYS_futex, &w->value, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    atomic_fetch_sub(&w->sleepers, 1);
}

void frnn_wake(frnn_word *w) {
    if (atomic_load(&w->sleepers) > 0) syscall(SYS_futex, &w->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}
#else
static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void forget_sleepers(void) { /* one of them may have held the lock */
    pthread_mutex_init(&sleeping, NULL);
    pthread_cond_init(&changed, NULL);
}

void frnn_sleep_while(frnn_word *w, unsigned value) {
    pthread_mutex_lock(&sleeping);
    atomic_fetch_add(&w->sleepers, 1);
    while (atomic_load(&w->value) == value) pthread_cond_wait(&changed, &sleeping);
    atomic_fetch_sub(&w->sleepers, 1);
    pthread_mutex_unlock(&sleeping);
}

void frnn_wake(frnn_word *w) {
    pthread_mutex_lock(&sleeping);
    if (atomic_load(&w->sleepers) > 0) pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&sleeping);
}
#endif

/* ---- Threads and children ---- */

typedef struct {
    void (*main)(void *);
    void *argument;
} beginning;

static void *begin(void *allocated) {
    const beginning b = *(beginning *)allocated;
    free(allocated);
    b.main(b.argument);
    return NULL;
}

int frnn_start_thread(void (*main)(void *), void *argument) {
    pthread_t thread;
    sigset_t all, before;
    beginning *b = malloc(sizeof *b);
    if (!b) return 0;
    *b = (beginning){main, argument};
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int started = pthread_create(&thread, NULL, begin, b) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started)
        pthread_detach(thread);
    else
        free(b);
    return started;
}

static void (*_Atomic child)(void);

static void in_child(void) {
    void (*const then)(void) = atomic_load(&child);
    forget_sleepers();
    then();
}

static void install(void) { pthread_atfork(NULL, NULL, in_child); }

void frnn_watch_forks(void (*in_child_too)(void)) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    atomic_store_explicit(&child, in_child_too, memory_order_relaxed);
    pthread_once(&once, install);
}

/* ---- Cores ---- */

#ifdef __linux__
int frnn_current_core(void) { return sched_getcpu(); }

void frnn_leave_core(int core) {
    cpu_set_t allowed, others;
    if (core < 0 || core >= CPU_SETSIZE || core != sched_getcpu() || sched_getaffinity(0, sizeof allowed, &allowed))
        return;
    others = allowed;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0) /* moves at once */
        sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
int frnn_current_core(void) { return -1; }
void frnn_leave_core(int core) { (void)core; }
#endif

#endif
