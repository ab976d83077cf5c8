/* What the C tests share: random numbers, arrays that end at a page that nobody may touch, comparisons. */
#ifndef CHECK_H
#define CHECK_H

#define _DEFAULT_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

/* ---- Pages of memory ---- */

#ifdef _WIN32
static size_t page_size(void) { return 4096; }
static char *map_pages(size_t bytes) { return VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }
static void forbid_page(void *page) { VirtualProtect(page, page_size(), PAGE_NOACCESS, &(DWORD){0}); }
static void unmap_pages(void *start, size_t bytes) { (void)bytes, VirtualFree(start, 0, MEM_RELEASE); }
#else
static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }
static char *map_pages(size_t bytes) {
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}
static void forbid_page(void *page) { mprotect(page, page_size(), PROT_NONE); }
static void unmap_pages(void *start, size_t bytes) { munmap(start, bytes); }
#endif

/* ---- Arrays, freed all at once, or the latest of them ---- */

#define MOST_ARRAYS 256
static struct {
    void *start;
    size_t size;
} arrays[MOST_ARRAYS];
static int array_count;

/* `bytes` up to a page that nobody may touch, or with `from_start` right after one. */
static void *guarded(size_t bytes, int from_start) {
    const size_t page = page_size(), pages = (bytes + page) / page * page;
    char *start = map_pages(pages + 2 * page);
    if (!start || array_count == MOST_ARRAYS) {
        perror("guarded");
        exit(2);
    }
    forbid_page(start);
    forbid_page(start + page + pages);
    arrays[array_count].start = start, arrays[array_count++].size = pages + 2 * page;
    return start + page + (from_start ? 0 : pages - bytes);
}

static void free_arrays_from(int first) {
    while (array_count > first) {
        array_count--;
        unmap_pages(arrays[array_count].start, arrays[array_count].size);
    }
}
static void free_arrays(void) { free_arrays_from(0); }

/* ---- Numbers: the same on every machine ---- */

static uint64_t seed = 1;

static uint64_t next_random(void) { /* xorshift64* */
    seed ^= seed >> 12, seed ^= seed << 25, seed ^= seed >> 27;
    return seed * 2685821657736338717u;
}
static double uniform(double low, double high) { return low + (high - low) * (double)(next_random() >> 11) * 0x1p-53; }
static int64_t integer(int64_t low, int64_t high) {
    return low + (int64_t)(next_random() % (uint64_t)(high - low + 1));
}

/* ---- Comparisons ---- */

static long checks, failures;

static void fail(const char *set, const char *what, int64_t n, int64_t k, double actual, double expected) {
    if (failures++ < 20)
        fprintf(stderr, "%s: %s, n = %lld, element %lld: %.9g, expected %.9g\n", set, what, (long long)n, (long long)k,
                actual, expected);
}

/* Relative to 1 or the expected value, whichever is more. */
static void compare(const char *set, const char *what, int64_t n, int64_t k, double actual, double expected,
                    double tolerance) {
    checks++;
    if (isnan(actual) != isnan(expected) || fabs(actual - expected) > tolerance * fmax(1, fabs(expected)))
        fail(set, what, n, k, actual, expected);
}

static int report(const char *name) {
    printf("%s: %ld comparisons, %ld failures\n", name, checks, failures);
    return failures != 0;
}

#endif
