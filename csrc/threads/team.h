/* A team of threads that runs one piece of work together. */
#ifndef FRNN_TEAM_H
#define FRNN_TEAM_H

#include <stdatomic.h>
#include <stdint.h>

#include "../hooks.h"

/* What a call knows of its caller's wish to stop it; on the caller's stack. */
typedef struct {
    atomic_int verdict;     /* the hook's: a frnn_verdict */
    int agreed[2];          /* what the halves of the team have agreed on; the whole team as the first */
    int64_t next;           /* when to ask the hook again; 0: not asked yet */
    uint64_t float_control; /* the caller's, for the hook */
} frnn_stop;

/* What a member knows of its team, which may be a half of another. */
typedef struct {
    int index, size; /* 0 <= index < size */
    int first;       /* index of this team's first member in the whole team: 0, unless it is a half */
    int is_half;
    struct frnn_barrier *barrier; /* the whole team's; null in a team of one */
    frnn_stop *stop;              /* the whole team's */
} frnn_team;

typedef void frnn_work(void *context, const frnn_team *team);

/* The half that a member is in, as a team of its own, of a team of at least two. `*half` becomes 0 or 1. */
frnn_team frnn_team_half(const frnn_team *team, int *half);

/* Calls work(context, team) in at most `threads` (1 to FRNN_MOST_THREADS) threads at once, the caller's among them, and
 * waits for all; in fewer if cores are busy. `alone` is about how many nanoseconds the work takes one thread. Meanwhile
 * all of them round to nearest, denormals count as zero, and nothing traps; afterwards the caller's floating-point
 * control flags are as before. If the caller's hook (see frnn_stop_install) wants the call to stop, what the work
 * writes is incomplete. */
void frnn_team_run(int threads, int64_t alone, frnn_work *work, void *context);

/* What frnn_team_insist said. */
frnn_split frnn_team_insisted(void);

/* Waits until every member has called this. */
void frnn_team_barrier(const frnn_team *team);

/* Is the call to stop? Long work asks from time to time. Members may learn of it at different times, so whoever does
 * may leave out work, but no barrier. */
int frnn_team_stopping(const frnn_team *team);

/* A barrier after which all members of this team (or half) agree whether the call is to stop: then they may leave out
 * barriers, too. Between two of these there must be another barrier. */
int frnn_team_agree_to_stop(const frnn_team *team);

#endif
