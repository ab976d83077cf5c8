#include "barrier.h"

#if FRNN_THREADS

frnn_progress *frnn_own_progress(const frnn_team *team) {
    return team->barrier ? team->barrier->members[team->first + team->index] : NULL;
}

void frnn_barrier_enter(struct frnn_barrier *barrier, int member, frnn_progress *progress) {
    barrier->members[member] = progress;
    for (int half = 0; half < 2; half++) barrier->given[member][half] = atomic_load(&progress->given[half].value);
}

/* In round r each member signals, and waits for the signal of the member 2^r places before it. After the last round
 * every member has heard, directly or through others, from all. Two members need one round: one cache line travels from
 * each core to the other. */
void frnn_team_barrier(const frnn_team *team) {
    struct frnn_barrier *barrier = team->barrier;
    if (atomic_load_explicit(&team->stop->verdict, memory_order_relaxed) == FRNN_ORPHANED) return; /* all are gone */
    const int self = team->first + team->index, half = team->is_half;
    for (int distance = 1; distance < team->size; distance *= 2) {
        const int other = team->first + (team->index + team->size - distance) % team->size;
        frnn_progress *own = barrier->members[self];
        frnn_word *mine = &own->given[half], *theirs = &barrier->members[other]->given[half];
        const unsigned signal = atomic_load_explicit(&mine->value, memory_order_relaxed) + 1;
        const unsigned awaited = barrier->given[other][half] + (signal - barrier->given[self][half]);
        atomic_store(&mine->value, signal);
        frnn_wake(mine);
        for (unsigned seen; (int)((seen = atomic_load_explicit(&theirs->value, memory_order_acquire)) - awaited) < 0;) {
            const int64_t slept = frnn_wait_while(theirs, seen, FRNN_WAIT_SPINS);
            own->slept += slept;
            if (slept > 0 && self > 0) frnn_leave_core(barrier->caller_core);
        }
    }
}

#else /* no threads: every team is one thread */

void frnn_team_barrier(const frnn_team *team) { (void)team; }

#endif
