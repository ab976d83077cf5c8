/* A team of threads that runs one piece of work together. */
#ifndef FRNN_TEAM_H
#define FRNN_TEAM_H

#include <stdint.h>

#include "hooks.h"

/* A member's view of its team. */
typedef struct {
    int index, size; /* 0 <= index < size */
    int first;       /* in the whole team, of a half */
    struct frnn_barrier *barrier;
} frnn_team;

/* The half of a team that a member of it is in, as a team; `*half` becomes 0 or 1. Of a team of at least two. */
frnn_team frnn_team_half(const frnn_team *team, int *half);

/* Call work(context, team) in at most `threads` threads at once and wait for all; in fewer where cores are busy.
 * `alone` is about how many nanoseconds the work takes one thread. Denormals count as zero meanwhile; the caller's
 * floating-point control flags are as before afterwards. */
void frnn_team_run(int threads, int64_t alone, void (*work)(void *context, const frnn_team *team), void *context);

/* What frnn_team_insist said. */
frnn_split frnn_team_insisted(void);

/* Wait until every member is here. */
void frnn_team_barrier(const frnn_team *team);

#endif
