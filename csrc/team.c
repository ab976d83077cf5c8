/* Threads: a few workers that sleep between calls.
 *
 * OpenMP is not used. Its teams wait until every thread has arrived, and its threads spin for milliseconds. While other
 * programs kept one of two cores busy, a call of 0.1 ms on two threads took 12 ms. Here a call offers its work to
 * sleeping workers and begins with those that accept in time, or alone if none does. A thread that has to wait spins
 * for some microseconds and then sleeps. If the members of a call had to sleep often, they were waiting for a core;
 * then the calls of the next milliseconds run on one thread.
 */
#ifdef __linux__
#define _GNU_SOURCE /* sched.h: where a thread runs */
#endif
#include "team.h"

#include <stdatomic.h>

#include "compiler.h"
#include "fastrnn.h"

#if FRNN_POSIX
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#endif
#ifdef __linux__
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

/* ---- Denormals: a decaying state must not be slow ---- */

#if defined(__SSE2__) || defined(_M_X64)
typedef unsigned int float_mode;
static float_mode flush_denormals(void) {
    const float_mode before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* flush results to zero, read operands as zero */
    return before;
}
static void restore_denormals(float_mode before) { _mm_setcsr(before); }
#elif FRNN_NEON
typedef uint64_t float_mode;
static float_mode flush_denormals(void) {
    float_mode before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" ::"r"(before | (1u << 24)));
    return before;
}
static void restore_denormals(float_mode before) { __asm__ volatile("msr fpcr, %0" ::"r"(before)); }
#else
typedef int float_mode;
static float_mode flush_denormals(void) { return 0; }
static void restore_denormals(float_mode before) { (void)before; }
#endif

static atomic_int insisted;

void frnn_team_insist(frnn_split split) { atomic_store(&insisted, (int)split); }

frnn_split frnn_team_insisted(void) { return (frnn_split)atomic_load(&insisted); }

frnn_team frnn_team_half(const frnn_team *team, int *half) {
    const int middle = team->size / 2;
    *half = team->index >= middle;
    return (frnn_team){team->index - (*half ? middle : 0), *half ? team->size - middle : middle,
                       team->first + (*half ? middle : 0), team->barrier};
}

static void run_member(const frnn_team *team, void (*work)(void *, const frnn_team *), void *context) {
    const float_mode before = flush_denormals();
    work(context, team);
    restore_denormals(before);
}

#if FRNN_POSIX

/* ---- Waiting for a word to change: spin first, then sleep ---- */

/* For how many pauses, of some 11 nanoseconds each, a thread spins before it sleeps: WAIT_SPINS in a barrier and for
 * the end of a call, from IDLE_SPINS to LONG_IDLE_SPINS for the next call. A worker that woke too late for a call spins
 * for the next one until about the end of the call that it missed (LATE_SPINS). For waking takes half a millisecond at
 * times: if it slept again, calls of a few milliseconds would never get a second thread. */
#define WAIT_SPINS 3000
#define IDLE_SPINS 5000
#define LONG_IDLE_SPINS 90000
#define LATE_SPINS(nanoseconds) FRNN_MAX(LONG_IDLE_SPINS, FRNN_MIN((nanoseconds) / 11, 450000))
#define IDLE_SHARE (20 * 11) /* a call's nanoseconds over this: a twentieth of its time */

#if defined(__x86_64__)
#define RELAX() _mm_pause()
#elif FRNN_NEON
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() (void)0
#endif

typedef struct {
    atomic_uint value;
    atomic_int sleepers;
} word;

#if defined(__linux__) && !defined(FRNN_NO_FUTEX)
static void forget_sleepers(void) {}
static void sleep_while(word *w, unsigned value) {
    atomic_fetch_add(&w->sleepers, 1);
    while (atomic_load(&w->value) == value) syscall(SYS_futex, &w->value, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    atomic_fetch_sub(&w->sleepers, 1);
}
static void wake(word *w) {
    if (atomic_load(&w->sleepers) > 0) syscall(SYS_futex, &w->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}
#else
static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* In a child of fork(), where a worker of the parent may have held the lock. */
static void forget_sleepers(void) {
    pthread_mutex_init(&sleeping, NULL);
    pthread_cond_init(&changed, NULL);
}
static void sleep_while(word *w, unsigned value) {
    pthread_mutex_lock(&sleeping);
    atomic_fetch_add(&w->sleepers, 1);
    while (atomic_load(&w->value) == value) pthread_cond_wait(&changed, &sleeping);
    atomic_fetch_sub(&w->sleepers, 1);
    pthread_mutex_unlock(&sleeping);
}
static void wake(word *w) {
    pthread_mutex_lock(&sleeping);
    if (atomic_load(&w->sleepers) > 0) pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&sleeping);
}
#endif

/* Returns whether it slept. */
static int wait_while(word *w, unsigned value, int spins) {
    for (int spin = 0; spin < spins; spin++) {
        if (atomic_load_explicit(&w->value, memory_order_acquire) != value) return 0;
        RELAX();
    }
    sleep_while(w, value);
    return 1;
}

/* ---- Which core ---- */

/* A thread that wakes up while all cores are busy may be put on the core of the thread that woke it. It may stay there
 * long after another core is free, while each of the two waits for the other. So it leaves that core. */
#ifdef __linux__
static int current_core(void) { return sched_getcpu(); }
static void leave_core(int core) {
    cpu_set_t allowed, others;
    if (core < 0 || core >= CPU_SETSIZE || core != sched_getcpu() || sched_getaffinity(0, sizeof allowed, &allowed))
        return;
    others = allowed;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0) /* moves at once */
        sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
static int current_core(void) { return -1; }
static void leave_core(int core) { (void)core; }
#endif

/* ---- A call, on its caller's stack ---- */

#define MOST_WORKERS (FRNN_MOST_THREADS - 1)

/* How many signals a member has given in barriers. It has a cache line of its own, for other threads spin on it. It is
 * never set back, also not between calls: a worker may already be in another caller's team before all members of this
 * one have seen its last signal. */
typedef struct {
    char apart[64];
    word given;
    char apart_too[56];
} progress;

struct frnn_barrier {
    int caller_core;
    atomic_int sleeps; /* how often a member had to */
    progress *members[MOST_WORKERS + 1];
    unsigned given[MOST_WORKERS + 1]; /* by each member before the call */
};

typedef struct {
    void (*work)(void *context, const frnn_team *team);
    void *context;
    word size; /* 0 until the team is complete */
    struct frnn_barrier barrier;
} call;

/* In round r each member signals, and waits for the signal of the member 2^r places before it. After the last round
 * every member has heard, directly or through others, from all. Two members need one round: one cache line travels from
 * each core to the other. */
void frnn_team_barrier(const frnn_team *team) {
    struct frnn_barrier *barrier = team->barrier;
    const int self = team->first + team->index;
    for (int distance = 1; distance < team->size; distance *= 2) {
        const int other = team->first + (team->index + team->size - distance) % team->size;
        word *mine = &barrier->members[self]->given, *theirs = &barrier->members[other]->given;
        const unsigned signal = atomic_load_explicit(&mine->value, memory_order_relaxed) + 1;
        const unsigned awaited = barrier->given[other] + (signal - barrier->given[self]);
        atomic_store(&mine->value, signal);
        wake(mine);
        for (unsigned seen; (int)((seen = atomic_load_explicit(&theirs->value, memory_order_acquire)) - awaited) < 0;)
            if (wait_while(theirs, seen, WAIT_SPINS)) {
                atomic_fetch_add_explicit(&barrier->sleeps, 1, memory_order_relaxed);
                if (self > 0) leave_core(barrier->caller_core);
            }
    }
}

/* ---- Workers ---- */

#define JOIN_SHARE 6               /* wait for workers for this part of the time that the work takes alone, ... */
#define JOIN_NANOSECONDS 5000000   /* ... but not longer than a waking takes at worst */
#define AWAKE_NANOSECONDS 3000     /* those that are awake come within this time */
#define VAIN_TIMES 8               /* having waited in vain, do not wait again for so many times as long */
#define SLEEP_NANOSECONDS 20000    /* what a sleep in a barrier costs, about */
#define MOST_SLEEPS 4              /* in a call, that say nothing */
#define ALONE_NANOSECONDS 20000000 /* to go alone once the cores were found busy */
#define SHORT_NANOSECONDS 100000   /* work that is not worth waking a thread ... */
#define RECENT_NANOSECONDS 200000  /* ... unless calls come one after the other */

/* A worker's state is in the two lower bits; the others count its rounds (an offer and what became of it), so that a
 * caller sees its own round end even if another caller's has begun. */
enum { IDLE, CLAIMED, OFFERED, RUNNING, STATES = 4 };
#define STATE(value) ((value) % STATES)
#define NEXT_ROUND(value) ((value) - STATE(value) + STATES)

typedef struct {
    word state;
    call *call;         /* of the offer */
    int index;          /* in its team, once that is complete */
    atomic_llong alone; /* nanoseconds that the work of the last offer takes one thread */
    progress progress;
} worker;

static worker *workers[MOST_WORKERS];
static atomic_int worker_count;
static pthread_mutex_t hiring = PTHREAD_MUTEX_INITIALIZER;

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void *worker_main(void *argument) {
    worker *self = argument;
    int spins = IDLE_SPINS;
    for (;;) {
        unsigned state = atomic_load(&self->state.value);
        if (STATE(state) != OFFERED) {
            wait_while(&self->state, state, spins);
            if (NEXT_ROUND(state) != NEXT_ROUND(atomic_load(&self->state.value))) /* offered, withdrawn */
                spins = (int)LATE_SPINS(atomic_load(&self->alone));
            continue;
        }
        const unsigned running = state - OFFERED + RUNNING;
        if (!atomic_compare_exchange_strong(&self->state.value, &state, running)) continue; /* withdrawn */
        call *const call = self->call;
        wait_while(&call->size, 0, WAIT_SPINS);
        leave_core(call->barrier.caller_core);
        const frnn_team team = {self->index, (int)atomic_load(&call->size.value), 0, &call->barrier};
        const int64_t begin = nanoseconds();
        run_member(&team, call->work, call->context);
        spins = (int)FRNN_MAX(IDLE_SPINS, FRNN_MIN(LONG_IDLE_SPINS, (nanoseconds() - begin) / IDLE_SHARE));
        atomic_store(&self->state.value, NEXT_ROUND(running)); /* idle; from here on `call` may be gone */
        wake(&self->state);
    }
    return NULL;
}

/* A child of fork() has none of its parent's threads; it hires its own. */
static void in_child(void) {
    atomic_store(&worker_count, 0);
    pthread_mutex_init(&hiring, NULL);
    forget_sleepers();
}

/* Have `count` workers, or as many as the system lets us. */
static void hire(int count) {
    static int watching;
    if (atomic_load(&worker_count) >= count) return;
    pthread_mutex_lock(&hiring);
    if (!watching) watching = pthread_atfork(NULL, NULL, in_child) == 0;
    sigset_t all, before; /* signals are the caller's business */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int k = atomic_load(&worker_count); k < count && k < MOST_WORKERS; k++) {
        pthread_t thread;
        workers[k] = calloc(1, sizeof *workers[k]);
        if (!workers[k]) break;
        if (pthread_create(&thread, NULL, worker_main, workers[k]) != 0) {
            free(workers[k]);
            break;
        }
        pthread_detach(thread);
        atomic_store(&worker_count, k + 1);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_mutex_unlock(&hiring);
}

typedef struct {
    worker *worker;
    unsigned state; /* as offered, then as running */
} member;

/* Offer `call`, of `alone` nanoseconds, to at most `count` idle workers, or only to those that are awake; those that
 * take it within `patience` nanoseconds are left in `members`. Returns their number. */
static int gather_members(call *call, int count, int64_t alone, int only_awake, int64_t patience, member *members) {
    int offers = 0, joined = 0;
    const int present = atomic_load(&worker_count);
    for (int k = 0; k < present && offers < count; k++) {
        unsigned idle = atomic_load(&workers[k]->state.value);
        if (STATE(idle) != IDLE || (only_awake && atomic_load(&workers[k]->state.sleepers) > 0)) continue;
        if (!atomic_compare_exchange_strong(&workers[k]->state.value, &idle, idle + CLAIMED)) continue;
        workers[k]->call = call;
        atomic_store_explicit(&workers[k]->alone, alone, memory_order_relaxed);
        members[offers++] = (member){workers[k], idle + OFFERED};
        atomic_store(&workers[k]->state.value, idle + OFFERED);
        wake(&workers[k]->state);
    }
    const int64_t deadline = nanoseconds() + patience;
    for (int k = 0; k < offers; k++) {
        member m = members[k];
        while (atomic_load(&m.worker->state.value) == m.state && nanoseconds() < deadline) RELAX();
        unsigned offer = m.state;
        if (atomic_compare_exchange_strong(&m.worker->state.value, &offer, NEXT_ROUND(offer))) continue; /* too late */
        m.state = m.state - OFFERED + RUNNING;
        m.worker->index = joined + 1;
        members[joined++] = m;
    }
    return joined;
}

static atomic_llong alone_until, awake_until, last_end;

static void run_team(int threads, int64_t alone, void (*work)(void *context, const frnn_team *team), void *context) {
    member members[MOST_WORKERS];
    call call;
    call.work = work, call.context = context;
    call.size = (word){0};
    atomic_init(&call.barrier.sleeps, 0);
    call.barrier.caller_core = current_core();
    threads = FRNN_MIN(threads, MOST_WORKERS + 1);
    hire(threads - 1);
    const int64_t begin = nanoseconds();
    const int only_awake = !frnn_team_insisted() && begin < atomic_load_explicit(&awake_until, memory_order_relaxed);
    const int64_t patience = frnn_team_insisted() ? 60000000000
                             : only_awake         ? AWAKE_NANOSECONDS
                                                  : FRNN_MIN(alone / JOIN_SHARE, JOIN_NANOSECONDS);
    const int joined = gather_members(&call, threads - 1, alone, only_awake, patience, members);
    if (joined == 0 && !only_awake)
        atomic_store_explicit(&awake_until, begin + VAIN_TIMES * patience, memory_order_relaxed);
    progress own;
    own.given = (word){0};
    call.barrier.members[0] = &own, call.barrier.given[0] = 0;
    for (int k = 0; k < joined; k++) {
        call.barrier.members[k + 1] = &members[k].worker->progress;
        call.barrier.given[k + 1] = atomic_load(&members[k].worker->progress.given.value);
    }
    const frnn_team team = {0, joined + 1, 0, &call.barrier};
    atomic_store(&call.size.value, (unsigned)team.size);
    wake(&call.size);
    run_member(&team, work, context);
    for (int k = 0; k < joined; k++) wait_while(&members[k].worker->state, members[k].state, WAIT_SPINS);
    const int64_t end = nanoseconds(), sleeps = atomic_load(&call.barrier.sleeps);
    if (sleeps > MOST_SLEEPS && sleeps * SLEEP_NANOSECONDS > (end - begin) / 4)
        atomic_store(&alone_until, end + ALONE_NANOSECONDS);
}

/* Is it worth asking workers to join, for work that takes one thread `alone` nanoseconds? */
static int worth_asking(int64_t alone) {
    const int64_t now = nanoseconds();
    return frnn_team_insisted() || (now >= atomic_load(&alone_until) &&
                                    (alone >= SHORT_NANOSECONDS ||
                                     now - atomic_load_explicit(&last_end, memory_order_relaxed) < RECENT_NANOSECONDS));
}

void frnn_team_run(int threads, int64_t alone, void (*work)(void *context, const frnn_team *team), void *context) {
    if (threads > 1 && worth_asking(alone))
        run_team(threads, alone, work, context);
    else
        run_member(&(frnn_team){0, 1, 0, NULL}, work, context);
    if (threads > 1) atomic_store_explicit(&last_end, nanoseconds(), memory_order_relaxed);
}

#else /* no POSIX threads: every team is one thread */

void frnn_team_barrier(const frnn_team *team) { (void)team; }

void frnn_team_run(int threads, int64_t alone, void (*work)(void *context, const frnn_team *team), void *context) {
    (void)threads, (void)alone;
    run_member(&(frnn_team){0, 1, 0, NULL}, work, context);
}

#endif

int frnn_has_threads(void) {
#if FRNN_POSIX
    return 1;
#else
    return 0;
#endif
}
