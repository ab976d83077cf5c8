/* The barrier of a team, for every provider of threads. */
#ifndef FRNN_BARRIER_H
#define FRNN_BARRIER_H

#include "team.h"
#include "wait.h"

#if FRNN_THREADS

/* A member's part. It has a cache line of its own, for other threads spin on it. Members of a half signal apart from
 * the whole team, because the halves may have had different numbers of barriers when the whole team meets again. */
typedef struct {
    char apart[64];
    frnn_word given[2]; /* how many signals the member has given in whole teams, and in halves. They are never set back,
                         * also not between calls: a worker may already be in another caller's team before all members
                         * of this one have seen its last signal. */
    int64_t slept;      /* nanoseconds, in this call */
    char apart_too[40];
} frnn_progress;

struct frnn_barrier {
    int caller_core; /* for members to leave; -1: they may be there */
    frnn_progress *members[FRNN_MOST_THREADS];
    unsigned given[FRNN_MOST_THREADS][2]; /* by each member before the call */
};

/* Makes `progress` that of a member, before any other member waits for it. */
void frnn_barrier_enter(struct frnn_barrier *barrier, int member, frnn_progress *progress);

/* A member's own part of the barrier of its team; null in a team of one. */
frnn_progress *frnn_own_progress(const frnn_team *team);

#endif
#endif
