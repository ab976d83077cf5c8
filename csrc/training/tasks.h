/* Tasks that members of a team draw one by one, in several rounds with barriers between them. What a task computes does
 * not depend on who draws it. A member whose core is busy draws fewer. */
#ifndef FRNN_TASKS_H
#define FRNN_TASKS_H

#include <stdatomic.h>

#include "../threads/team.h"

typedef struct {
    atomic_llong drawn;
} frnn_tasks;

/* A member's place in the rounds: how many draws there were before this one. Begins with 0. */
typedef int64_t frnn_round;

/* The next task of 0..count-1 for this member, or -1 if there are none left, or the call is to stop: then its next draw
 * is one of the next round. */
static inline int64_t frnn_next_task(frnn_tasks *tasks, int64_t count, frnn_round *round, const frnn_team *team) {
    for (int64_t task; (task = atomic_fetch_add_explicit(&tasks->drawn, 1, memory_order_relaxed) - *round) < count;)
        if (task == 0 || !frnn_team_stopping(team)) return task; /* the first at once: a short call has no other */
    *round += count + team->size;                                /* each member draws in vain once */
    return -1;
}

#define FRNN_FOR_TASKS(task, tasks, count, round, team)                                                                \
    for (int64_t task; (task = frnn_next_task(tasks, count, round, team)) >= 0;)

#endif
