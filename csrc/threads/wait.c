#ifdef __linux__
#define _GNU_SOURCE /* syscall, sched.h */
#endif
#include "wait.h"

#if FRNN_POSIX
#include <limits.h>
#include <pthread.h>
#include <stddef.h>
#include <time.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__linux__) && !defined(FRNN_NO_FUTEX)
void frnn_forget_sleepers(void) {}

static void sleep_while(frnn_word *w, unsigned value) {
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

void frnn_forget_sleepers(void) {
    pthread_mutex_init(&sleeping, NULL);
    pthread_cond_init(&changed, NULL);
}

static void sleep_while(frnn_word *w, unsigned value) {
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

int64_t frnn_wait_while(frnn_word *w, unsigned value, int spins) {
    for (int spin = 0; spin < spins; spin++) {
        if (atomic_load_explicit(&w->value, memory_order_acquire) != value) return 0;
        RELAX();
    }
    const int64_t begin = frnn_nanoseconds();
    sleep_while(w, value);
    return frnn_nanoseconds() - begin;
}

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

static int64_t read_clock(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t frnn_nanoseconds(void) { return read_clock(CLOCK_MONOTONIC); }

int64_t frnn_thread_nanoseconds(void) { return read_clock(CLOCK_THREAD_CPUTIME_ID); }

#else
#include <time.h>

int64_t frnn_nanoseconds(void) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

#endif
