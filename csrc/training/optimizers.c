/* Steps of optimisers over all parameters at once, and the norm of gradients: blocks of all arrays, which the members
 * of a team take in turn. Both are as fast as memory. */
#include "optimizers.h"

#include <stdatomic.h>

#include "../compiler.h"
#include "../threads/team.h"

#define BLOCK 16384             /* values; with moments 256 KiB in float, which fit a core's cache */
#define BYTES_PER_NANOSECOND 20 /* what one thread reads and writes, about */

static int64_t size_of(frnn_dtype dtype) { return dtype == FRNN_F32 ? sizeof(float) : sizeof(double); }

static int64_t blocks_of(int64_t n) { return (n + BLOCK - 1) / BLOCK; }

/* ---- Blocks that members take in turn ---- */

typedef struct {
    int64_t count; /* of arrays */
    const void *arrays;
    int64_t (*values)(const void *arrays, int64_t index); /* of an array */
    atomic_llong next;                                    /* block of all, in the order of the arrays */
} queue;

typedef struct {
    int64_t block, before;     /* which of all, and how many there are in the arrays before this one */
    int64_t index, first, end; /* of the array, and of its values */
} place;

/* The next block; 0 if there is none. `at` begins as zeros. */
static int take_block(queue *q, place *at) {
    at->block = atomic_fetch_add_explicit(&q->next, 1, memory_order_relaxed);
    for (; at->index < q->count; at->index++) {
        const int64_t n = q->values(q->arrays, at->index), blocks = blocks_of(n);
        if (at->block - at->before < blocks) {
            at->first = (at->block - at->before) * BLOCK, at->end = FRNN_MIN(n, at->first + BLOCK);
            return 1;
        }
        at->before += blocks;
    }
    return 0;
}

/* ---- Steps ---- */

typedef struct {
    queue queue; /* of updates */
    const void *rule;
    frnn_step *f32, *f64;
} steps;

/* How many values a step goes through: those of p, or of its gradient's rows. */
static int64_t values_of_update(const void *updates, int64_t index) {
    const frnn_update *u = (const frnn_update *)updates + index;
    return u->only_rows ? u->rows * u->columns : u->n;
}

/* Values first <= k < end of p, whose gradients are from g on; null: zeros. */
static void step_values(const steps *s, const frnn_update *u, int64_t first, int64_t end, const char *g) {
    const int64_t at = first * size_of(u->dtype);
    char *const *moment = (char *const *)u->moment;
    (u->dtype == FRNN_F32 ? s->f32 : s->f64)(s->rule, end - first, (char *)u->p + at, g,
                                             moment[0] ? moment[0] + at : NULL, moment[1] ? moment[1] + at : NULL);
}

/* Values first <= k < end of the gradient's rows. */
static void step_own_rows(const steps *s, const frnn_update *u, int64_t first, int64_t end) {
    while (first < end) {
        const int64_t row = first / u->columns, stop = FRNN_MIN(end, (row + 1) * u->columns);
        const int64_t p_from_g = (u->ids[row] - row) * u->columns;
        step_values(s, u, first + p_from_g, stop + p_from_g, (const char *)u->g + first * size_of(u->dtype));
        first = stop;
    }
}

/* The first row of the gradient whose id is at least `id`. */
static int64_t first_row(const frnn_update *u, int64_t id) {
    int64_t low = 0, high = u->rows;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (u->ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Values first <= k < end of p: rows that have a gradient, and what lies between them. */
static void step_all_rows(const steps *s, const frnn_update *u, int64_t first, int64_t end) {
    for (int64_t row = first_row(u, first / u->columns); first < end;) {
        const int64_t begin = row < u->rows ? FRNN_MIN(end, u->ids[row] * u->columns) : end;
        if (first < begin) {
            step_values(s, u, first, begin, NULL);
            first = begin;
        } else {
            const int64_t stop = FRNN_MIN(end, (u->ids[row] + 1) * u->columns);
            const int64_t g = first - (u->ids[row] - row) * u->columns;
            step_values(s, u, first, stop, (const char *)u->g + g * size_of(u->dtype));
            first = stop, row++;
        }
    }
}

static void step_blocks(void *context, const frnn_team *team) {
    steps *s = context;
    place at = {0};
    while (take_block(&s->queue, &at)) {
        const frnn_update *u = (const frnn_update *)s->queue.arrays + at.index;
        if (!u->ids)
            step_values(s, u, at.first, at.end, (const char *)u->g + at.first * size_of(u->dtype));
        else if (u->only_rows)
            step_own_rows(s, u, at.first, at.end);
        else
            step_all_rows(s, u, at.first, at.end);
    }
    (void)team;
}

static void step_all(const void *rule, frnn_step *f32, frnn_step *f64, int64_t count, const frnn_update *updates,
                     int threads) {
    steps s = {{count, updates, values_of_update, 0}, rule, f32, f64};
    int64_t bytes = 0;
    for (int64_t k = 0; k < count; k++)
        bytes += values_of_update(updates, k) * size_of(updates[k].dtype) *
                 (3 + 2 * !!updates[k].moment[0] + 2 * !!updates[k].moment[1]);
    frnn_team_run(threads, bytes / BYTES_PER_NANOSECOND, step_blocks, &s);
}

void frnn_sgd_step(const frnn_sgd *rule, int64_t count, const frnn_update *updates, int threads) {
    step_all(rule, frnn_kernels()->f32.sgd, frnn_kernels()->f64.sgd, count, updates, threads);
}

void frnn_adam_step(const frnn_adam *rule, int64_t count, const frnn_update *updates, int threads) {
    step_all(rule, frnn_kernels()->f32.adam, frnn_kernels()->f64.adam, count, updates, threads);
}

/* ---- Norms ---- */

typedef struct {
    queue queue;  /* of frnn_values */
    double *sums; /* of blocks */
} squares;

static int64_t values_of_array(const void *arrays, int64_t index) { return ((const frnn_values *)arrays)[index].n; }

static void square_blocks(void *context, const frnn_team *team) {
    squares *s = context;
    place at = {0};
    while (take_block(&s->queue, &at)) {
        const frnn_values *a = (const frnn_values *)s->queue.arrays + at.index;
        const char *data = (const char *)a->data + at.first * size_of(a->dtype);
        s->sums[at.block] = a->dtype == FRNN_F32 ? frnn_kernels()->f32.squares(at.end - at.first, data)
                                                 : frnn_kernels()->f64.squares(at.end - at.first, data);
    }
    (void)team;
}

int64_t frnn_squares_blocks(int64_t count, const frnn_values *arrays) {
    int64_t blocks = 0;
    for (int64_t k = 0; k < count; k++) blocks += blocks_of(arrays[k].n);
    return blocks;
}

double frnn_squares(int64_t count, const frnn_values *arrays, int threads, double *work) {
    squares s = {{count, arrays, values_of_array, 0}, work};
    const int64_t blocks = frnn_squares_blocks(count, arrays);
    int64_t bytes = 0;
    double sum = 0;
    for (int64_t k = 0; k < count; k++) bytes += arrays[k].n * size_of(arrays[k].dtype);
    frnn_team_run(threads, bytes / BYTES_PER_NANOSECOND, square_blocks, &s);
    for (int64_t block = 0; block < blocks; block++) sum += work[block];
    return sum;
}
