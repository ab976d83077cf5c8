#include "system.h"

#ifdef _WIN32
#include <windows.h>

#include <process.h>
#include <stdlib.h>

int64_t frnn_nanoseconds(void) {
    LARGE_INTEGER now, rate;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&rate);
    const int64_t seconds = now.QuadPart / rate.QuadPart, rest = now.QuadPart % rate.QuadPart;
    return seconds * 1000000000 + rest * 1000000000 / rate.QuadPart;
}

#if FRNN_THREADS

void frnn_sleep_while(frnn_word *w, unsigned value) {
    atomic_fetch_add(&w->sleepers, 1);
    while (atomic_load(&w->value) == value) WaitOnAddress(&w->value, &value, sizeof value, INFINITE);
    atomic_fetch_sub(&w->sleepers, 1);
}

void frnn_wake(frnn_word *w) {
    if (atomic_load(&w->sleepers) > 0) WakeByAddressAll(&w->value);
}

typedef struct {
    void (*main)(void *);
    void *argument;
} beginning;

static unsigned __stdcall begin(void *allocated) {
    const beginning b = *(beginning *)allocated;
    free(allocated);
    b.main(b.argument);
    return 0;
}

int frnn_start_thread(void (*main)(void *), void *argument) {
    beginning *b = malloc(sizeof *b);
    if (!b) return 0;
    *b = (beginning){main, argument};
    const uintptr_t thread = _beginthreadex(NULL, 0, begin, b, 0, NULL);
    if (!thread) {
        free(b);
        return 0;
    }
    CloseHandle((HANDLE)thread);
    return 1;
}

void frnn_watch_forks(void (*in_child)(void)) { (void)in_child; /* there is no fork() */ }

/* GetThreadTimes counts ticks of 16 milliseconds, which says nothing of a call. */
int64_t frnn_thread_nanoseconds(void) { return -1; }

/* The scheduler puts a thread that wakes up on its own ideal core if it can. */
int frnn_current_core(void) { return -1; }
void frnn_leave_core(int core) { (void)core; }

#endif
#endif
