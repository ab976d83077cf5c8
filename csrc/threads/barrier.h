/* The barrier of a team, for every provider of threads. */
#ifndef FRNN_BARRIER_H
#define FRNN_BARRIER_H

#include "team.h"
#include "wait.h"

#if FRNN_POSIX

/* A member's part. It has a cache line of its own, for other threads spin on it. */
typedef struct {
    char apart[64];
    frnn_word
        given;     /* how many signals the member has given. It is never set back, also not between calls: a worker may
                    * already be in another caller's team before all members of this one have seen its last signal. */
    int64_t slept; /* nanoseconds, in this call */
    char apart_too[48];
} frnn_progress;

struct frnn_barrier {
    int caller_core; /* for members to leave; -1: they may be there */
    frnn_progress *members[FRNN_MOST_THREADS];
    unsigned given[FRNN_MOST_THREADS]; /* by each member before the call */
};

/* A member's own part of the barrier of its team; null in a team of one. */
frnn_progress *frnn_own_progress(const frnn_team *team);

#endif
#endif
