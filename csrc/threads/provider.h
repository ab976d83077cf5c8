/* What team.c asks of a provider of threads. */
#ifndef FRNN_PROVIDER_H
#define FRNN_PROVIDER_H

#include "barrier.h"

#if FRNN_THREADS

/* A call of frnn_team_run. */
typedef struct {
    frnn_work *work;
    void *context;
    int64_t alone;     /* about how many nanoseconds the work takes one thread */
    int measured;      /* members measure the time that they lost */
    atomic_llong lost; /* the most nanoseconds for which a member was ready to compute, but had no core */
    frnn_stop *stop;
} frnn_call;

typedef struct {
    const char *name;
    /* Runs a call in at most `threads` threads, at least 2, and waits for all. */
    void (*run)(frnn_call *call, int threads);
    /* Called in a child of fork(), which has none of its parent's threads. */
    void (*in_child)(void);
} frnn_provider;

extern const frnn_provider frnn_workers;
#ifdef _OPENMP
extern const frnn_provider frnn_openmp;
#endif

/* A member's share of a call, on the thread that runs it. */
void frnn_run_member(frnn_call *call, const frnn_team *team);

#endif
#endif
