/* Threads of OpenMP: a team is a parallel region.
 *
 * Its threads are those of the compiler's OpenMP library. They spin after a region as the library's settings say, and a
 * region begins when all of them have a core. Inside it members wait for each other at our own barrier. */
#include "provider.h"

#if FRNN_THREADS && defined(_OPENMP)
#include <omp.h>

/* In a child of fork() that library waits for threads that are not there. But workers can be hired anew. */
static atomic_int forked;

static void in_child(void) { atomic_store(&forked, 1); }

static void run(frnn_call *call, int threads) {
    if (atomic_load(&forked)) {
        frnn_workers.run(call, threads);
        return;
    }
    struct frnn_barrier barrier;
    barrier.caller_core = -1;
#pragma omp parallel num_threads(threads)
    {
        frnn_progress own = {.slept = 0};
        const frnn_team team = {omp_get_thread_num(), omp_get_num_threads(), 0, 0, &barrier, call->stop};
        frnn_barrier_enter(&barrier, team.index, &own);
#pragma omp barrier
        frnn_run_member(call, &team);
#pragma omp barrier /* until then others may look at `own` */
    }
}

const frnn_provider frnn_openmp = {"openmp", run, in_child};

#else
typedef int frnn_no_openmp; /* a file may not be empty */
#endif
