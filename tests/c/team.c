/* Teams: every member runs once, barriers part what is written before from what is read after, callers do not disturb
 * each other, and denormals count as zero inside a team and nowhere else. Meant for -fsanitize=thread, which knows
 * whether an order is certain:
 *     gcc -fsanitize=thread -O1 -g -pthread tests/c/team.c csrc/threads/[a-z]*.c -o team && ./team without-fork
 */
#define _DEFAULT_SOURCE
#include <float.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef _WIN32
#include <windows.h>
#else
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "../../csrc/threads/team.h"
#include "../../csrc/threads/wait.h"

#define MOST 8
#define ROUNDS 20

static atomic_int failures, largest;

typedef struct {
    int64_t total[MOST]; /* plain: a barrier that orders nothing is a race */
    int64_t times[MOST];
} board;

/* Are denormals what they are? */
static int has_denormals(void) {
    volatile float least = FLT_MIN, half = 0.5f;
    return least * half > 0;
}

/* What all members have written adds up to `expected`. */
static void expect_sum(const board *b, const frnn_team *team, int64_t expected) {
    int64_t sum = 0;
    for (int k = 0; k < team->size; k++) sum += b->total[team->first + k];
    if (sum != expected) atomic_fetch_add(&failures, 1);
}

/* Halves of different sizes, one of which has more barriers, and then a barrier of the whole team. */
static void part_and_meet(board *b, const frnn_team *team) {
    int which;
    const frnn_team half = frnn_team_half(team, &which);
    int64_t *own = &b->total[team->index];
    for (int round = 0; round < 1 + 3 * which; round++) {
        *own = round;
        frnn_team_barrier(&half);
        expect_sum(b, &half, round * half.size);
        frnn_team_barrier(&half);
    }
    *own = 7;
    frnn_team_barrier(team);
    expect_sum(b, team, 7 * team->size);
    frnn_team_barrier(team);
}

static void work(void *context, const frnn_team *team) {
    board *b = context;
    b->times[team->index]++;
#if FRNN_X86 || FRNN_NEON
    if (has_denormals()) atomic_fetch_add(&failures, 1);
#endif
    for (int round = 0; round < ROUNDS; round++) {
        b->total[team->index] = round * 100 + team->index;
        frnn_team_barrier(team);
        expect_sum(b, team, team->size * (team->size - 1) / 2 + 100 * round * team->size);
        frnn_team_barrier(team);
    }
    if (team->size > 1) part_and_meet(b, team);
    int seen = atomic_load(&largest);
    while (seen < team->size && !atomic_compare_exchange_weak(&largest, &seen, team->size)) {
    }
}

static void call(int threads, int64_t alone) {
    board b = {{0}, {0}};
    frnn_team_run(threads, alone, work, &b);
    int members = 0;
    while (members < MOST && b.times[members] == 1) members++;
    for (int k = members; k < MOST; k++)
        if (b.times[k] != 0) atomic_fetch_add(&failures, 1);
    if (members < 1 || members > threads || !has_denormals()) atomic_fetch_add(&failures, 1);
}

static unsigned next_random(unsigned *seed) { return (*seed = *seed * 1664525u + 1013904223u) >> 16; }

/* `alone` decides how long the caller waits for others: from not at all, so that offers are withdrawn, to long. */
static void calls(unsigned seed) {
    const int count = frnn_team_insisted() ? 40 : 300; /* whole teams wait for those of others */
    for (int k = 0; k < count; k++)
        call(1 + (int)(next_random(&seed) % MOST), (int64_t)(next_random(&seed) % 3) * 2000000);
}

#if FRNN_THREADS
static frnn_word callers; /* that have not ended */

static void caller_main(void *number) {
    calls((unsigned)(uintptr_t)number);
    atomic_fetch_sub(&callers.value, 1);
    frnn_wake(&callers);
}

static void begin_callers(int count) {
    atomic_store(&callers.value, (unsigned)count);
    for (int k = 0; k < count; k++)
        if (!frnn_start_thread(caller_main, (void *)(uintptr_t)(k + 1))) exit(2);
}

static void await_callers(void) {
    for (unsigned left; (left = atomic_load(&callers.value)) > 0;) frnn_wait_while(&callers, left, 0);
}

static void from_several_threads(int count) {
    begin_callers(count);
    await_callers();
}

#if FRNN_POSIX
/* Children hire workers of their own, whatever locks workers of the parent held when it forked. */
static void fork_while_calling(void) {
    begin_callers(1);
    for (int k = 0; k < 200; k++) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(20); /* ends a child that waits for a lock which nobody will release */
            frnn_team_insist(FRNN_BY_ROWS);
            call(4, 0);
            _exit(atomic_load(&failures) != 0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        if (status != 0) {
            atomic_fetch_add(&failures, 1);
            break;
        }
    }
    await_callers();
}
#endif

static void count_members(void *context, const frnn_team *team) {
    if (team->index == 0) *(int *)context = team->size;
}

static void sleep_milliseconds(int n) {
#ifdef _WIN32
    Sleep((DWORD)n);
#else
    usleep((useconds_t)n * 1000);
#endif
}

/* The second member is without a core for a while: what sleeping looks like. */
static void lose_core(void *context, const frnn_team *team) {
    count_members(context, team);
    if (team->index == 1) sleep_milliseconds(5);
}

/* After a call whose member lost its core the next one goes alone; when there has been a rest, it does not. */
static void check_pause(void) {
    for (int k = 0; k < 5; k++) {
        int lost = 0, after = 0, later = 0;
        sleep_milliseconds(1100);
        frnn_team_run(2, 20000000, lose_core, &lost);
        frnn_team_run(2, 20000000, count_members, &after);
        sleep_milliseconds(1100);
        frnn_team_run(2, 20000000, count_members, &later);
        if (lost < 2 || later < 2) continue; /* this machine's cores were busy: try again */
        if (after != 1) atomic_fetch_add(&failures, 1);
        return;
    }
    printf("pause: not seen, for no second thread came\n");
}
#endif

static frnn_verdict stop(void) { return FRNN_STOP; }

/* Halves that go on until the caller wants the call to stop. */
static void work_until_stopped(void *context, const frnn_team *team) {
    int which;
    const frnn_team half = team->size > 1 ? frnn_team_half(team, &which) : *team;
    do {
        ((board *)context)->times[team->index]++;
        frnn_team_barrier(&half);
    } while (!frnn_team_agree_to_stop(&half));
    frnn_team_barrier(team);
}

static void check_stopping(void) {
    frnn_stop_install(stop);
    for (int threads = 1; threads <= 5; threads++) {
        board b = {{0}, {0}};
        frnn_team_run(threads, 20000000, work_until_stopped, &b);
        if (b.times[0] < 2) atomic_fetch_add(&failures, 1);
    }
    frnn_stop_install(NULL);
}

static void check(int forks) {
    atomic_store(&largest, 0);
    for (int threads = 1; threads <= MOST; threads++) { /* whole teams */
        frnn_team_insist(FRNN_BY_ROWS);
        for (int k = 0; k < 30; k++) call(threads, 0);
        if (frnn_has_threads() && atomic_load(&largest) != threads) atomic_fetch_add(&failures, 1);
    }
    check_stopping();
#if FRNN_THREADS
    from_several_threads(2); /* a worker goes from team to team, before all have seen its last signal */
#endif
    frnn_team_insist(FRNN_CHOOSE); /* whoever comes in time */
    calls(1);
#if FRNN_THREADS
    from_several_threads(4);
    if (frnn_thread_nanoseconds() >= 0) check_pause(); /* else nobody measures what a member loses */
#endif
#if FRNN_POSIX
    if (forks) fork_while_calling();
#else
    (void)forks;
#endif
}

/* An argument: without forking. */
int main(int count, char **arguments) {
    (void)arguments;
    const char *provider = frnn_threading_selected();
    for (int k = 0; k == 0 || (provider = frnn_threading_name(k)) != NULL; k++) {
        frnn_threading_select(provider);
        check(count == 1);
        printf("%s: teams of up to %d: %d failures\n", provider, atomic_load(&largest), atomic_load(&failures));
    }
    return atomic_load(&failures) != 0;
}
