/* Workers: threads of our own that sleep between calls.
 *
 * A call offers its work to idle workers and begins with those that accept in time, or alone if none does. So it never
 * waits long for a thread that has no core.
 */
#include "provider.h"

#if FRNN_THREADS

#include <stdlib.h>

#define MOST_WORKERS (FRNN_MOST_THREADS - 1)

/* For how many pauses a worker spins before it sleeps: from IDLE_SPINS to LONG_IDLE_SPINS for the next call. A worker
 * that woke too late for a call spins for the next one until about the end of the call that it missed (LATE_SPINS). For
 * waking takes half a millisecond at times: if it slept again, calls of a few milliseconds would never get a second
 * thread. */
#define IDLE_SPINS 5000
#define LONG_IDLE_SPINS 90000
#define LATE_SPINS(nanoseconds) FRNN_MAX(LONG_IDLE_SPINS, FRNN_MIN((nanoseconds) / 11, 450000))
#define IDLE_SHARE (20 * 11) /* a call's nanoseconds over this: a twentieth of its time */

#define JOIN_SHARE 6             /* wait for workers for this part of the time that the work takes alone, ... */
#define JOIN_NANOSECONDS 5000000 /* ... but not longer than a waking takes at worst */
#define AWAKE_NANOSECONDS 3000   /* those that are awake come within this time */
#define VAIN_TIMES 8             /* having waited in vain, do not wait again for so many times as long */

/* An offer of a call, on its caller's stack. */
typedef struct {
    frnn_call *call;
    frnn_word size; /* of the team; 0 until it is complete */
    struct frnn_barrier barrier;
} offer;

/* A worker's state is in the two lower bits; the others count its rounds (an offer and what became of it), so that a
 * caller sees its own round end even if another caller's has begun. */
enum { IDLE, CLAIMED, OFFERED, RUNNING, STATES = 4 };
#define STATE(value) ((value) % STATES)
#define NEXT_ROUND(value) ((value) - STATE(value) + STATES)

typedef struct {
    frnn_word state;
    offer *offer;           /* the last one */
    int index;              /* in its team, once that is complete */
    atomic_int caller_core; /* of the last offer */
    atomic_llong alone;     /* nanoseconds that its work takes one thread */
    frnn_progress progress;
} worker;

static worker *workers[MOST_WORKERS];
static atomic_int worker_count;
static frnn_word hiring; /* 1: a thread is hiring */

static void worker_main(void *argument) {
    worker *self = argument;
    int spins = IDLE_SPINS;
    for (;;) {
        unsigned state = atomic_load(&self->state.value);
        if (STATE(state) != OFFERED) {
            if (frnn_wait_while(&self->state, state, spins) > 0) frnn_leave_core(atomic_load(&self->caller_core));
            if (NEXT_ROUND(state) != NEXT_ROUND(atomic_load(&self->state.value))) /* offered, withdrawn */
                spins = (int)LATE_SPINS(atomic_load(&self->alone));
            continue;
        }
        const unsigned running = state - OFFERED + RUNNING;
        if (!atomic_compare_exchange_strong(&self->state.value, &state, running)) continue; /* withdrawn */
        offer *const offer = self->offer;
        frnn_wait_while(&offer->size, 0, FRNN_WAIT_SPINS);
        frnn_leave_core(offer->barrier.caller_core);
        const frnn_team team = {self->index,      (int)atomic_load(&offer->size.value), 0, 0, &offer->barrier,
                                offer->call->stop};
        const int64_t begin = frnn_nanoseconds();
        frnn_run_member(offer->call, &team);
        spins = (int)FRNN_MAX(IDLE_SPINS, FRNN_MIN(LONG_IDLE_SPINS, (frnn_nanoseconds() - begin) / IDLE_SHARE));
        atomic_store(&self->state.value, NEXT_ROUND(running)); /* idle; from here on `offer` may be gone */
        frnn_wake(&self->state);
    }
}

/* A child hires workers of its own. */
static void in_child(void) {
    atomic_store(&worker_count, 0);
    atomic_store(&hiring.value, 0);
    atomic_store(&hiring.sleepers, 0);
}

/* Have `count` workers, or as many as the system lets us. */
static void hire(int count) {
    if (atomic_load(&worker_count) >= count) return;
    while (atomic_exchange(&hiring.value, 1)) frnn_wait_while(&hiring, 1, FRNN_WAIT_SPINS);
    for (int k = atomic_load(&worker_count); k < count && k < MOST_WORKERS; k++) {
        workers[k] = calloc(1, sizeof *workers[k]);
        if (!workers[k]) break;
        if (!frnn_start_thread(worker_main, workers[k])) {
            free(workers[k]);
            break;
        }
        atomic_store(&worker_count, k + 1);
    }
    atomic_store(&hiring.value, 0);
    frnn_wake(&hiring);
}

typedef struct {
    worker *worker;
    unsigned state; /* as offered, then as running */
} member;

/* Makes `offer` to at most `count` idle workers, or only to those that are awake. Those that take it within `patience`
 * nanoseconds are left in `members`. Returns their number. */
static int gather_members(offer *offer, int count, int only_awake, int64_t patience, member *members) {
    int offers = 0, joined = 0;
    const int present = atomic_load(&worker_count);
    for (int k = 0; k < present && offers < count; k++) {
        unsigned idle = atomic_load(&workers[k]->state.value);
        if (STATE(idle) != IDLE || (only_awake && atomic_load(&workers[k]->state.sleepers) > 0)) continue;
        if (!atomic_compare_exchange_strong(&workers[k]->state.value, &idle, idle + CLAIMED)) continue;
        workers[k]->offer = offer;
        atomic_store_explicit(&workers[k]->caller_core, offer->barrier.caller_core, memory_order_relaxed);
        atomic_store_explicit(&workers[k]->alone, offer->call->alone, memory_order_relaxed);
        members[offers++] = (member){workers[k], idle + OFFERED};
        atomic_store(&workers[k]->state.value, idle + OFFERED);
        frnn_wake(&workers[k]->state);
    }
    const int64_t deadline = frnn_nanoseconds() + patience;
    for (int k = 0; k < offers; k++) {
        member m = members[k];
        while (atomic_load(&m.worker->state.value) == m.state && frnn_nanoseconds() < deadline) RELAX();
        unsigned offered = m.state;
        if (atomic_compare_exchange_strong(&m.worker->state.value, &offered, NEXT_ROUND(offered)))
            continue; /* too late */
        m.state = m.state - OFFERED + RUNNING;
        m.worker->index = joined + 1;
        members[joined++] = m;
    }
    return joined;
}

static void run(frnn_call *call, int threads) {
    static atomic_llong awake_until; /* until then it was not worth waiting for workers that sleep */
    member members[MOST_WORKERS];
    frnn_progress own = {.slept = 0};
    offer offer;
    offer.call = call;
    offer.size = (frnn_word){0};
    offer.barrier.caller_core = frnn_current_core();
    hire(threads - 1);
    const int64_t begin = frnn_nanoseconds();
    const int only_awake = !frnn_team_insisted() && begin < atomic_load_explicit(&awake_until, memory_order_relaxed);
    const int64_t patience = frnn_team_insisted() ? 60000000000
                             : only_awake         ? AWAKE_NANOSECONDS
                                                  : FRNN_MIN(call->alone / JOIN_SHARE, JOIN_NANOSECONDS);
    const int joined = gather_members(&offer, threads - 1, only_awake, patience, members);
    if (joined == 0 && !only_awake)
        atomic_store_explicit(&awake_until, begin + VAIN_TIMES * patience, memory_order_relaxed);
    frnn_barrier_enter(&offer.barrier, 0, &own);
    for (int k = 0; k < joined; k++) frnn_barrier_enter(&offer.barrier, k + 1, &members[k].worker->progress);
    const frnn_team team = {0, joined + 1, 0, 0, &offer.barrier, call->stop};
    atomic_store(&offer.size.value, (unsigned)team.size);
    frnn_wake(&offer.size);
    frnn_run_member(call, &team);
    if (atomic_load(&call->stop->verdict) == FRNN_ORPHANED) return; /* nobody is there to wait for */
    for (int k = 0; k < joined; k++) frnn_wait_while(&members[k].worker->state, members[k].state, FRNN_WAIT_SPINS);
}

const frnn_provider frnn_workers = {"workers", run, in_child};

#endif
