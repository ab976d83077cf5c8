/* Threads by OpenMP; without it a team is one thread. */
#include "team.h"

#include "compiler.h"
#include "fastrnn.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
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

/* ---- Fork: a child has none of its parent's threads, and OpenMP waits for them forever ---- */

static volatile int used_threads, lost;

int frnn_team_lost(void) { return lost; }

#if defined(_OPENMP) && (defined(__unix__) || defined(__APPLE__))
static void in_child(void) { lost = used_threads; }
static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }
static pthread_once_t watched = PTHREAD_ONCE_INIT;
#endif

/* ---- Teams ---- */

void frnn_team_run(int threads, void (*work)(void *context, int index, int size), void *context) {
#ifdef _OPENMP
    if (threads > 1 && !lost) {
#if defined(__unix__) || defined(__APPLE__)
        pthread_once(&watched, watch_forks);
#endif
        used_threads = 1;
#pragma omp parallel num_threads(threads)
        {
            const float_mode before = flush_denormals();
            work(context, omp_get_thread_num(), omp_get_num_threads());
            restore_denormals(before);
        }
        return;
    }
#endif
    (void)threads;
    const float_mode before = flush_denormals();
    work(context, 0, 1);
    restore_denormals(before);
}

void frnn_team_barrier(int size) {
#ifdef _OPENMP
    if (size > 1) {
#pragma omp barrier
    }
#endif
    (void)size;
}

int frnn_openmp_version(void) {
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}
