/* Teams: how many threads a call gets, and from which provider.
 *
 * A thread that has no core is worse than none: a team is as slow as its slowest member. So each member measures how
 * long it was ready to compute but did not run, because another program, or threads that another library lets spin, had
 * its core. If that was a good part of the call, the calls of the next milliseconds run on one thread, and of more and
 * more milliseconds if it happens again. And calls that several threads make at once share what one call may use.
 */
#include "team.h"

#include <stdatomic.h>

#include "../compiler.h"
#include "provider.h"

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

/* ---- Floating-point control ----
 *
 * A thread that is created has the control word of its creator, so what workers computed with would depend on who hired
 * them. Every member of a team, the caller too, computes with the same word: rounding to nearest, no traps, and
 * denormals are zero, because a decaying state must not be slow. */

#if defined(__SSE2__) || defined(_M_X64)
typedef unsigned int float_control;
static float_control set_float_control(void) {
    const float_control before = _mm_getcsr();
    _mm_setcsr(0x9FC0); /* exceptions masked, results flushed to zero, operands read as zero */
    return before;
}
static void restore_float_control(float_control before) { _mm_setcsr(before); }
#elif FRNN_NEON
typedef uint64_t float_control;
static void restore_float_control(float_control before) { __asm__ volatile("msr fpcr, %0" ::"r"(before)); }
static float_control set_float_control(void) {
    float_control before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    restore_float_control(1u << 24); /* FZ */
    return before;
}
#else
typedef int float_control;
static float_control set_float_control(void) { return 0; }
static void restore_float_control(float_control before) { (void)before; }
#endif

/* ---- Stopping ---- */

#define ASK_NANOSECONDS 100000000 /* from one question to the next */

static frnn_verdict (*_Atomic hook)(void);

void frnn_stop_install(frnn_verdict (*new_hook)(void)) { atomic_store(&hook, new_hook); }

/* On the caller's thread. The first question is for the time only, which a short call does not need to read. */
static void ask(frnn_stop *stop) {
    const int64_t now = frnn_nanoseconds();
    if (now < stop->next || atomic_load(&stop->verdict) != FRNN_GO_ON) return;
    frnn_verdict (*const asked)(void) = atomic_load(&hook);
    if (stop->next > 0 && asked) {
        restore_float_control((float_control)stop->float_control);
        atomic_store(&stop->verdict, (int)asked());
        set_float_control();
    }
    stop->next = frnn_nanoseconds() + ASK_NANOSECONDS;
}

int frnn_team_stopping(const frnn_team *team) {
    if (team->first + team->index == 0) ask(team->stop);
    return atomic_load_explicit(&team->stop->verdict, memory_order_relaxed) != FRNN_GO_ON;
}

int frnn_team_agree_to_stop(const frnn_team *team) {
    int *const agreed = &team->stop->agreed[team->first > 0];
    if (team->index == 0) *agreed = frnn_team_stopping(team);
    frnn_team_barrier(team);
    return *agreed;
}

/* ---- Insisting, halves ---- */

static atomic_int insisted;

void frnn_team_insist(frnn_split split) { atomic_store(&insisted, (int)split); }

frnn_split frnn_team_insisted(void) { return (frnn_split)atomic_load(&insisted); }

frnn_team frnn_team_half(const frnn_team *team, int *half) {
    const int middle = team->size / 2;
    *half = team->index >= middle;
    return (frnn_team){team->index - (*half ? middle : 0),
                       *half ? team->size - middle : middle,
                       team->first + (*half ? middle : 0),
                       1,
                       team->barrier,
                       team->stop};
}

static void run_alone(frnn_work *work, void *context, frnn_stop *stop) {
    const float_control before = set_float_control();
    stop->float_control = before;
    work(context, &(frnn_team){0, 1, 0, 0, NULL, stop});
    restore_float_control(before);
}

#if FRNN_THREADS

/* ---- Providers ---- */

/* The default first. */
static const frnn_provider *const providers[] = {
    &frnn_workers,
#ifdef _OPENMP
    &frnn_openmp,
#endif
};
static _Atomic(const frnn_provider *) selected = &frnn_workers;

const char *frnn_threading_name(int index) {
    return index < (int)(sizeof providers / sizeof *providers) ? providers[index]->name : NULL;
}

int frnn_threading_select(const char *name) {
    for (size_t k = 0; k < sizeof providers / sizeof *providers; k++)
        if (strcmp(providers[k]->name, name) == 0) {
            atomic_store(&selected, providers[k]);
            return 1;
        }
    return 0;
}

const char *frnn_threading_selected(void) { return atomic_load(&selected)->name; }

static atomic_int callers; /* calls that run and may have a team */

static void in_child(void) {
    atomic_store(&callers, 0);
    for (size_t k = 0; k < sizeof providers / sizeof *providers; k++) providers[k]->in_child();
}

/* ---- Are there cores for a team? ---- */

#define SHORT_NANOSECONDS 100000  /* work that is not worth waking a thread, nor measuring ... */
#define RECENT_NANOSECONDS 200000 /* ... unless calls come one after the other */
#define LOST_NANOSECONDS 50000    /* a member lost its core if it was without one for this long, ... */
#define LOST_SHARE 8              /* ... and for this part of the call */
#define PAUSE_LEAST 10000000      /* then calls go alone for this time; twice as long each time, ... */
#define PAUSE_MOST 1000000000     /* ... up to this */
#define CLEAN_CALLS 16            /* so many teams in a row that lost nothing make it short again */

static atomic_llong alone_until, last_end, pause;
static atomic_int clean;

/* Is it worth asking others to join, for work that takes one thread `alone` nanoseconds? */
static int worth_asking(int64_t alone) {
    if (frnn_team_insisted()) return 1;
    const int64_t now = frnn_nanoseconds();
    if (now < atomic_load_explicit(&alone_until, memory_order_relaxed)) return 0;
    return alone >= SHORT_NANOSECONDS ||
           now - atomic_load_explicit(&last_end, memory_order_relaxed) < RECENT_NANOSECONDS;
}

/* What a call of `nanoseconds` says of the cores. */
static void judge(frnn_call *call, int64_t nanoseconds) {
    const int64_t lost = atomic_load(&call->lost);
    if (lost < LOST_NANOSECONDS || lost < nanoseconds / LOST_SHARE) {
        if (atomic_load_explicit(&pause, memory_order_relaxed) > 0 && atomic_fetch_add(&clean, 1) >= CLEAN_CALLS)
            atomic_store(&pause, 0);
        return;
    }
    const int64_t next = FRNN_MIN(PAUSE_MOST, FRNN_MAX(PAUSE_LEAST, 2 * atomic_load(&pause)));
    atomic_store(&pause, next);
    atomic_store(&clean, 0);
    atomic_store(&alone_until, frnn_nanoseconds() + next);
}

void frnn_run_member(frnn_call *call, const frnn_team *team) {
    const float_control before = set_float_control();
    frnn_progress *own = frnn_own_progress(team);
    if (team->index == 0) call->stop->float_control = before;
    own->slept = 0;
    const int64_t computed = call->measured ? frnn_thread_nanoseconds() : -1;
    if (computed >= 0) {
        const int64_t begin = frnn_nanoseconds();
        call->work(call->context, team);
        const int64_t computing = frnn_thread_nanoseconds() - computed;
        const int64_t lost = frnn_nanoseconds() - begin - computing - own->slept;
        long long most = atomic_load(&call->lost);
        while (lost > most && !atomic_compare_exchange_weak(&call->lost, &most, lost)) {
        }
    } else {
        call->work(call->context, team);
    }
    restore_float_control(before);
}

void frnn_team_run(int threads, int64_t alone, frnn_work *work, void *context) {
    frnn_stop stop = {0};
    if (threads < 2) {
        run_alone(work, context, &stop);
        return;
    }
    frnn_watch_forks(in_child);
    const int others = atomic_fetch_add(&callers, 1);
    if (!frnn_team_insisted()) threads /= others + 1;
    if (threads > 1 && worth_asking(alone)) {
        frnn_call call = {work, context, alone, alone >= SHORT_NANOSECONDS && !frnn_team_insisted(), 0, &stop};
        const int64_t begin = frnn_nanoseconds();
        atomic_load(&selected)->run(&call, FRNN_MIN(threads, FRNN_MOST_THREADS));
        if (call.measured) judge(&call, frnn_nanoseconds() - begin);
    } else {
        run_alone(work, context, &stop);
    }
    if (atomic_load(&stop.verdict) != FRNN_ORPHANED) atomic_fetch_sub(&callers, 1); /* a child has none already */
    atomic_store_explicit(&last_end, frnn_nanoseconds(), memory_order_relaxed);
}

int frnn_has_threads(void) { return 1; }

#else /* no threads: every team is one thread */

void frnn_team_run(int threads, int64_t alone, frnn_work *work, void *context) {
    (void)threads, (void)alone;
    frnn_stop stop = {0};
    run_alone(work, context, &stop);
}

int frnn_has_threads(void) { return 0; }

const char *frnn_threading_name(int index) {
    (void)index;
    return NULL;
}
int frnn_threading_select(const char *name) {
    (void)name;
    return 0;
}
const char *frnn_threading_selected(void) { return "none"; }

#endif
