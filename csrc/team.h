/* A team of threads that runs one piece of work together. */
#ifndef FRNN_TEAM_H
#define FRNN_TEAM_H

/* Call work(context, index, size) on `size` <= `threads` threads at once, index = 0..size-1, and wait for all. Denormals
 * count as zero meanwhile; the caller's floating-point flags are as before afterwards. */
void frnn_team_run(int threads, void (*work)(void *context, int index, int size), void *context);

/* Wait until every thread of the running team is here. */
void frnn_team_barrier(int size);

/* Nonzero in a process that was forked after a team of several threads had run: there are no threads to call. */
int frnn_team_lost(void);

#endif
