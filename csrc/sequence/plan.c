#include "plan.h"

#include "../blas/gemm.h"
#include "../team.h"

/* Inference promises at most 8 MiB of scratch: at most 2 for pre-activations, 2 for gathered inputs, and
 * up to 2 for states. A single row may exceed this, when H or I is in the 10,000s. */
#define STEP_BYTES (1 << 20)
#define CHUNK_BYTES (2 << 20)
/* Weight gradients are read and written once a chunk, so a chunk has this many rows at least, and more while it stays in
 * cache; but it is bounded. */
#define GRADIENT_ROWS 512
#define GRADIENT_BYTES (8 << 20)

static frnn_plan plan(const frnn_steps *s, int64_t row_bytes, int64_t step_limit, int64_t chunk_limit) {
    frnn_plan p = {0};
    p.block_rows = FRNN_MAX(1, FRNN_MIN(s->B, step_limit / row_bytes));
    const int64_t chunk_rows = FRNN_MAX(p.block_rows, chunk_limit / row_bytes);
    p.chunk_steps = FRNN_MAX(1, FRNN_MIN(FRNN_MIN(s->T, FRNN_CHUNK_STEPS), chunk_rows / p.block_rows));
    p.chunk_rows = p.block_rows * p.chunk_steps;
    return p;
}

/* Are all rows of some steps of a (T, B, n) series one block of memory? */
static int one_block(const frnn_plan *p, const frnn_steps *s, const frnn_series *a, int64_t n) {
    return !s->lengths && p->block_rows >= s->B && (s->B == 1 || a->stride_b == n) &&
           (s->T == 1 || a->stride_t == s->B * n);
}

frnn_plan frnn_forward_plan(const frnn_cell *cell, const frnn_forward_args *args, int64_t row_bytes) {
    frnn_plan p = plan(&args->steps, row_bytes, STEP_BYTES, CHUNK_BYTES);
    p.direct = one_block(&p, &args->steps, &args->x, cell->I);
    return p;
}

frnn_plan frnn_backward_plan(const frnn_cell *cell, const frnn_backward_args *args, int64_t row_bytes) {
    const int64_t chunk_bytes = FRNN_MIN(FRNN_MAX(GRADIENT_ROWS * row_bytes, STEP_BYTES), GRADIENT_BYTES);
    frnn_plan p = plan(&args->steps, row_bytes, GRADIENT_BYTES, chunk_bytes);
    p.direct = one_block(&p, &args->steps, &args->x, cell->I) && one_block(&p, &args->steps, &args->dx, cell->I);
    return p;
}

int frnn_fits(const frnn_cell *cell, const frnn_steps *steps, const frnn_plan *plan) {
    /* a member's rows lie as many rows apart as there are threads, at most 1024 (fastrnn/threads.py) */
    const int64_t limit = frnn_gemm_limit(), widest = FRNN_MAX(4 * cell->H, FRNN_MAX(cell->I, cell->O));
    return widest <= limit / 1024 && steps->B <= limit && plan->chunk_rows <= limit;
}

static double step_operations(const frnn_cell *cell, const frnn_steps *steps) {
    return 2.0 * (double)steps->B * (double)frnn_gates(cell) * (double)cell->H * (double)(cell->O + cell->I);
}

int64_t frnn_alone(const frnn_cell *cell, const frnn_steps *steps, int times) {
    return (int64_t)(times * (double)steps->T * step_operations(cell, steps) / 70); /* at 70 GFLOP/s */
}

int frnn_worthwhile(const frnn_cell *cell, const frnn_steps *steps, int threads, int *by_units) {
    const double step = step_operations(cell, steps);
    *by_units = 0;
    if (threads > steps->B / 8) { /* too few rows for products to be quick on a part of them */
        *by_units = 1;
        threads = (int)FRNN_MIN((int64_t)threads, FRNN_MAX(1, cell->H / 32));
        if (frnn_team_insisted()) return threads;
        if (step < 2e5) return 1; /* a barrier a step would cost more */
    }
    if (frnn_team_insisted()) return threads;
    if (step * (double)steps->T < (*by_units ? 2e7 : 1e7)) return 1; /* waking a team would cost more */
    return threads;
}
