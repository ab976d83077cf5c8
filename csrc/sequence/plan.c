#include "plan.h"

#include <math.h>
#include <stdatomic.h>

#include "../blas/gemm.h"
#include "../cells/cells.h"
#include "../kernels/kernels.h"
#include "../threads/team.h"
#if FRNN_POSIX
#include <unistd.h>
#endif

/* Inference promises at most 8 MiB of scratch: at most 1 for pre-activations, 1 for gathered inputs, and
 * up to 2 for states. A single row may exceed this, when H or I is in the 10,000s. */
#define STEP_BYTES (1 << 20)
#define CHUNK_BYTES (1 << 20)
/* Weight gradients are read and written once a chunk, so a chunk has this many rows at least, and more while it stays
 * in cache; but it is bounded. */
#define GRADIENT_ROWS 1024
#define GRADIENT_BYTES (8 << 20)

static frnn_plan plan(const frnn_steps *s, int64_t row_bytes, int64_t step_limit, int64_t chunk_limit) {
    frnn_plan p = {0};
    p.block_rows = FRNN_MAX(1, FRNN_MIN(s->B, step_limit / row_bytes));
    const int64_t chunk_rows = FRNN_MAX(p.block_rows, chunk_limit / row_bytes);
    p.chunk_steps = FRNN_MAX(1, FRNN_MIN(FRNN_CHUNK_STEPS, chunk_rows / p.block_rows));
    return p;
}

/* A plan whose chunks have at most this many steps. */
static frnn_plan in_chunks_of(frnn_plan p, const frnn_steps *s, int64_t steps) {
    p.chunk_steps = FRNN_MAX(1, FRNN_MIN(s->T, steps));
    p.chunk_rows = p.block_rows * p.chunk_steps;
    return p;
}

/* Are all valid rows of some steps of a series (T, B, n) one block of memory? */
static int one_block(const frnn_plan *p, const frnn_steps *s, const frnn_series *a, int64_t n) {
    if (s->starts) return p->block_rows >= s->B && a->stride_t == n;
    return !s->lengths && p->block_rows >= s->B && (s->B == 1 || a->stride_b == n) &&
           (s->T == 1 || a->stride_t == s->B * n);
}

frnn_plan frnn_forward_plan(const frnn_cell *cell, const frnn_forward_args *args, int64_t row_bytes) {
    frnn_plan p = plan(&args->steps, row_bytes, STEP_BYTES, CHUNK_BYTES);
    p = in_chunks_of(p, &args->steps, p.chunk_steps);
    p.direct = one_block(&p, &args->steps, &args->x, cell->I);
    return p;
}

/* Steps of a chunk backwards: a power of two, so that a number of steps that is a multiple of a chunk of one layer of a
 * stack is one of the others', too. Of the powers it is the one nearest to `steps`, within the bound. */
static int64_t backward_steps(int64_t steps, int64_t step_bytes) {
    int64_t power = 1;
    while (3 * power < 2 * steps) power *= 2;
    return power > 1 && power * step_bytes > GRADIENT_BYTES ? power / 2 : power;
}

frnn_plan frnn_backward_plan(const frnn_cell *cell, const frnn_backward_args *args, int64_t row_bytes) {
    const int64_t chunk_bytes = FRNN_MIN(FRNN_MAX(GRADIENT_ROWS * row_bytes, STEP_BYTES), GRADIENT_BYTES);
    frnn_plan p = plan(&args->steps, row_bytes, GRADIENT_BYTES, chunk_bytes);
    p = in_chunks_of(p, &args->steps, backward_steps(p.chunk_steps, p.block_rows * row_bytes));
    p.direct = one_block(&p, &args->steps, &args->x, cell->I) &&
               (!args->dx.data || one_block(&p, &args->steps, &args->dx, cell->I));
    return p;
}

int frnn_fits(const frnn_cell *cell, const frnn_steps *steps, const frnn_plan *plan) {
    if (cell->packed) return 1; /* our own products count in 64 bits */
    /* a member's rows may lie as many rows apart as there are threads */
    const int64_t limit = frnn_gemm_limit(), widest = FRNN_MAX(4 * cell->H, FRNN_MAX(cell->I, cell->O));
    return widest <= limit / FRNN_MOST_THREADS && steps->B <= limit && plan->chunk_rows <= limit;
}

/* ---- Threads: a model of a step's time ----
 *
 * In nanoseconds, measured on a server of 2023 with AVX-512; what counts is only which plan comes out first, and these
 * are off by the same factor on other machines. A step multiplies `rows` rows by the state's weights, which a member
 * reads whole if members share the rows, and in part if they share the units; it cannot be faster than the
 * multiplications nor than that reading. Members that share units wait for each other and then fetch each other's
 * results, line by line, from another core's cache. Where units are not connected there is none of this: the steps cost
 * what their gates do.
 */
#define LANE_RATE 9.6        /* operations a nanosecond and lane, in tiles */
#define BANDWIDTH_NEAR 150.0 /* bytes a nanosecond, from L1 and L2 */
#define BANDWIDTH_FAR 28.0   /* from beyond */
#define BARRIER 350.0        /* a round; there is one each time that the number of members doubles */
#define LINE_FETCH 60.0      /* from another core, several on their way at once */
#define ROW_OVERHEAD 25.0    /* of calling a gate kernel */
#define NORM_TIME 8.4        /* of layer normalisation, for a vector of a gate */
#define NORM_OVERHEAD 60.0   /* of the statistics of a row */
#define NORM_BARRIER 210.0   /* of members that have just done the same, and exchange no more than statistics */
#define START 3000.0         /* of offering work to others and waiting for their end */
#define WORTH 0.9            /* a team must take less than this share of one thread's time */
#define FEWEST_UNITS 32      /* of a member */
#define BLAS_ROWS 8          /* of a member: BLAS is slow with fewer */

static double near_bytes(void) {
#ifdef _SC_LEVEL2_CACHE_SIZE
    static atomic_long known;
    long bytes = atomic_load_explicit(&known, memory_order_relaxed);
    if (bytes == 0) {
        bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
        bytes = bytes > 0 ? bytes : 1 << 20;
        atomic_store_explicit(&known, bytes, memory_order_relaxed);
    }
    return (double)bytes;
#else
    return 1 << 20;
#endif
}

/* Of `bytes` out of `kept`, all of which are read over and over. */
static double reading(double bytes, double kept) {
    const double near = FRNN_MIN(1, near_bytes() / kept);
    return bytes * (near / BANDWIDTH_NEAR + (1 - near) / BANDWIDTH_FAR);
}

typedef struct {
    double bytes; /* of a weight */
    double rate;  /* of multiplications, compared with those of the cell's dtype */
} weight_cost;

static weight_cost cost_of_weights(const frnn_cell *cell) {
    const frnn_kernel_set *kernels = frnn_kernels();
    if (cell->dtype == FRNN_F64) return (weight_cost){8, 1};
    const frnn_packing_f32 *packing = &kernels->f32.packings[cell->storage];
    return (weight_cost){(double)packing->bytes, packing->rate};
}

/* A pass's time for B rows a step. */
static double pass_time(const frnn_cell *cell, frnn_pass pass, double T, double B, int lanes, int threads,
                        int by_units) {
    const frnn_description *is = frnn_describe(cell->kind);
    const weight_cost weight = cost_of_weights(cell);
    const double size = cell->dtype == FRNN_F32 ? 4 : 8, rate = LANE_RATE * lanes * weight.rate, G = is->gates;
    const double I = (double)cell->I, H = (double)cell->H, O = (double)cell->O / (double)frnn_heads(cell);
    const double rows = by_units ? B : ceil(B / threads), share = by_units ? threads : 1;
    const double recurrent = is->unconnected ? 0 : G * H * O;
    const double weights = (recurrent + (cell->w_hr ? H * O : 0)) / share, inputs = G * H * I / share;
    const double kept = (weights + (T == 1 ? inputs : 0)) * weight.bytes; /* a step on its own needs all weights once */
    double step = FRNN_MAX(2 * rows * weights / rate, reading(weights * weight.bytes, kept));
    step += rows * (H / share * is->gate_time / lanes + ROW_OVERHEAD);
    const double products = 1 + (is->reset > 0), projections = cell->w_hr != NULL;
    const double norms = cell->norm.hh || cell->norm.sum ? products + is->has_c : 0;
    if (norms > 0) step += rows * ((norms + 1) * NORM_OVERHEAD + G * H / share * NORM_TIME / lanes);
    if (by_units && threads > 1 && !is->unconnected) {
        const double values = B * H * (pass == FRNN_FORWARD ? products + projections : G);
        step += ((products + projections) * BARRIER + norms * NORM_BARRIER) * ceil(log2(threads));
        step += values * size / 64 * (threads - 1) / threads * LINE_FETCH;
    }
    /* what all steps do together is shared evenly: the input's projection, or its gradient and those of the weights */
    double together = T * 2 * B * (G * H * I * (pass == FRNN_FORWARD ? 1 : 2) + (pass == FRNN_FORWARD ? 0 : recurrent));
    together /= rate * threads;
    together = FRNN_MAX(together, reading(inputs * weight.bytes, T == 1 ? kept : inputs * weight.bytes));
    return T * step + together + (threads > 1 ? START : 0);
}

static int64_t most_units(const frnn_cell *cell) { return FRNN_MAX(1, cell->H / FEWEST_UNITS); }

int frnn_most_members(const frnn_cell *cell, const frnn_steps *steps, int threads) {
    return (int)FRNN_MIN(threads, FRNN_MAX(most_units(cell), steps->B));
}

static int power_of_two_below(int n) {
    int power = 1;
    while (2 * power < n) power *= 2;
    return power;
}

/* The best way for one direction. */
static frnn_split_plan choose(const frnn_cell *cell, const frnn_steps *steps, frnn_pass pass, double B, int lanes,
                              int threads, double *best_time) {
    const frnn_split insisted = frnn_team_insisted();
    const double T = (double)steps->T, one = pass_time(cell, pass, T, B, lanes, 1, 0);
    frnn_split_plan plan = {.threads = 1, .alone = (int64_t)one};
    *best_time = one;
    if (insisted) {
        plan.by_units = insisted == FRNN_BY_UNITS;
        plan.threads = (int)FRNN_MIN(threads, plan.by_units ? most_units(cell) : FRNN_MAX(1, steps->B));
        return plan;
    }
    if (one < START) return plan; /* a team alone would take longer to start */
    /* All threads, or a power of two, so that with more threads at most the same plans are left out. */
    for (int n = threads; n > 1; n = power_of_two_below(n))
        for (int units = 0; units < 2; units++) {
            const int members = (int)FRNN_MIN(n, units ? most_units(cell) : steps->B);
            if (members < 2 || (!cell->packed && !units && steps->B < BLAS_ROWS * members)) continue;
            const double time = pass_time(cell, pass, T, B, lanes, members, units);
            if (time < FRNN_MIN(*best_time, WORTH * one))
                *best_time = time, plan.threads = members, plan.by_units = units;
        }
    return plan;
}

/* The best way for `count` directions; *time is what the model says that it takes. */
static frnn_split_plan choose_threads(const frnn_cell *cell, const frnn_steps *steps, frnn_pass pass, int count,
                                      int lanes, int threads, double *time) {
    double B = (double)steps->B, together, apart;
    if (steps->lengths) { /* the rows of an average step */
        double valid = 0;
        for (int64_t b = 0; b < steps->B; b++) valid += (double)steps->lengths[b];
        B = FRNN_MAX(1, valid / (double)FRNN_MAX(1, steps->T));
    }
    frnn_split_plan plan = choose(cell, steps, pass, B, lanes, threads, &together);
    plan.alone *= count;
    *time = count * together;
    if (count == 1 || threads < 2) return plan;
    frnn_split_plan half = choose(cell, steps, pass, B, lanes, threads / 2, &apart);
    half.threads *= 2, half.alone *= count, half.at_once = 1;
    apart += START;
    if (apart >= FRNN_MIN(WORTH * (double)plan.alone, *time) && !frnn_team_insisted()) return plan;
    *time = apart;
    return half;
}

frnn_split_plan frnn_choose_threads(const frnn_cell *cell, const frnn_steps *steps, frnn_pass pass, int count,
                                    int lanes, int threads) {
    double time;
    if (threads < 2) return (frnn_split_plan){.threads = 1};
    return choose_threads(cell, steps, pass, count, lanes, threads, &time);
}

double frnn_simulate_plan(const char *cell, frnn_dtype dtype, frnn_pass pass, int64_t T, int64_t B, int64_t I,
                          int64_t H, int directions, int lanes, int threads, int *members, frnn_split *split) {
    const frnn_storage storage = dtype == FRNN_F32 ? FRNN_STORED_F32 : FRNN_STORED_F64;
    const frnn_cell c = {
        .kind = frnn_kind(cell), .dtype = dtype, .storage = storage, .I = I, .H = H, .O = H, .packed = cell};
    const frnn_steps steps = {.T = T, .B = B};
    double time;
    const frnn_split_plan plan = choose_threads(&c, &steps, pass, directions, lanes, threads, &time);
    *members = plan.threads, *split = plan.by_units ? FRNN_BY_UNITS : FRNN_BY_ROWS;
    return time;
}
