/* Threads by OpenMP; without it a team is one thread. */
#include "team.h"

#include "compiler.h"
#include "fastrnn.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if FRNN_POSIX
#include <pthread.h>
#include <sched.h>
#define YIELD() sched_yield()
#else
#define YIELD() (void)0
#endif
#ifdef __linux__
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include <stdatomic.h>
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

/* ---- The barrier ----
 *
 * A step lasts microseconds, so a member spins. But when the machine has more to do than cores, the member that all wait
 * for may itself wait for a core: so after some 50 microseconds a spinning member sleeps and gives its own away. (OpenMP's
 * own barrier spins for milliseconds; on a busy machine that was measured at 5 ms a step.) */

#define SPINS 4000

struct frnn_barrier {
    atomic_int arrived;
    char apart[60]; /* from what the others spin on */
    atomic_int generation;
    atomic_int sleeping;
};

#if defined(__x86_64__) || defined(_M_X64)
#define RELAX() _mm_pause()
#elif FRNN_NEON
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() (void)0
#endif

static void sleep_while(struct frnn_barrier *barrier, int generation) {
#ifdef __linux__
    atomic_fetch_add(&barrier->sleeping, 1);
    while (atomic_load(&barrier->generation) == generation)
        syscall(SYS_futex, &barrier->generation, FUTEX_WAIT_PRIVATE, generation, NULL, NULL, 0);
    atomic_fetch_sub(&barrier->sleeping, 1);
#else
    while (atomic_load(&barrier->generation) == generation) YIELD();
#endif
}

static void wake_all(struct frnn_barrier *barrier) {
#ifdef __linux__
    if (atomic_load(&barrier->sleeping) > 0)
        syscall(SYS_futex, &barrier->generation, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#endif
    (void)barrier;
}

void frnn_team_barrier(const frnn_team *team) {
    if (team->size == 1) return;
    struct frnn_barrier *barrier = team->barrier;
    const int generation = atomic_load_explicit(&barrier->generation, memory_order_acquire);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) + 1 == team->size) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_fetch_add(&barrier->generation, 1);
        wake_all(barrier);
        return;
    }
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&barrier->generation, memory_order_acquire) != generation) return;
        RELAX();
    }
    sleep_while(barrier, generation);
}

/* ---- Fork: a child has none of its parent's threads, and OpenMP would wait for them forever ---- */

#ifdef _OPENMP
static atomic_int used_threads, lost_threads;
#if FRNN_POSIX
static void in_child(void) { lost_threads = used_threads; }
static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }
static pthread_once_t watched = PTHREAD_ONCE_INIT;
#endif
#endif

/* ---- Teams ---- */

static void run_member(const frnn_team *team, void (*work)(void *, const frnn_team *), void *context) {
    const float_mode before = flush_denormals();
    work(context, team);
    restore_denormals(before);
}

void frnn_team_run(int threads, void (*work)(void *context, const frnn_team *team), void *context) {
#ifdef _OPENMP
    if (threads > 1 && !lost_threads) {
#if FRNN_POSIX
        pthread_once(&watched, watch_forks);
#endif
        used_threads = 1;
        struct frnn_barrier barrier = {0};
#pragma omp parallel num_threads(threads)
        {
            const frnn_team team = {omp_get_thread_num(), omp_get_num_threads(), &barrier};
            run_member(&team, work, context);
        }
        return;
    }
#endif
    (void)threads;
    run_member(&(frnn_team){0, 1, NULL}, work, context);
}

int frnn_openmp_version(void) {
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}
