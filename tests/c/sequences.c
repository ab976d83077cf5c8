/* Whole sequences, forwards and backwards, with packed weights on every instruction set that runs here.
 *
 * The same bits in teams of 2 and 3, by rows and by units, as alone; and what the scalar set computes, within rounding.
 * Everything is at guarded pages: packed weights and workspace, which Python allocates, are too. Meant for
 * -fsanitize=thread as well, and for machines that have no Python, or are emulated (.ci/ctests).
 */
#include "check.h"

#include "../../csrc/cells/cells.h"
#include "../../csrc/hooks.h"

#define RESULTS 14
typedef struct {
    void *data[RESULTS];
    int64_t count[RESULTS];
} results;

typedef struct {
    frnn_cell cell;
    frnn_steps steps;
    frnn_series x, dy;
    const void *h0, *c0, *dh_n, *dc_n;
    const frnn_description *is; /* the cell's */
} problem;

static const char *const names[RESULTS] = {"y",   "h_n",   "c_n",   "gates", "cells", "dx",    "dh0",
                                           "dc0", "dw_ih", "dw_hh", "db_ih", "db_hh", "dw_hr", "dpeephole"};

static size_t size_of(frnn_dtype dtype) { return dtype == FRNN_F32 ? 4 : 8; }

static void *numbers(frnn_dtype dtype, int64_t count, double bound) {
    void *a = guarded((size_t)count * size_of(dtype), 0);
    for (int64_t k = 0; k < count; k++) {
        const double value = uniform(-bound, bound);
        if (dtype == FRNN_F32)
            ((float *)a)[k] = (float)value;
        else
            ((double *)a)[k] = value;
    }
    return a;
}

static problem draw(int number) {
    problem p = {0};
    frnn_cell *c = &p.cell;
    c->kind = number % FRNN_CELL_COUNT, c->replace = (int)integer(0, 1), c->linear = c->replace;
    c->dtype = integer(0, 1) ? FRNN_F64 : FRNN_F32;
    c->storage = c->dtype == FRNN_F64 ? FRNN_STORED_F64 : FRNN_STORED_F32;
    p.is = frnn_describe(c->kind);
    const int64_t G = p.is->gates, B = integer(1, 20), T = integer(1, 9);
    c->heads = p.is->has_c > 1 ? (int)integer(1, 4) : 1; /* any cell that has neither resets nor a projection could */
    c->I = integer(1, 40), c->H = c->heads * integer(1, 130 / c->heads);
    c->O = p.is->output_gate && integer(0, 2) == 0 ? integer(1, c->H) : c->H;
    const double bound = 1 / sqrt((double)c->H);
    c->w_ih = numbers(c->dtype, G * c->H * c->I, bound);
    if (!p.is->unconnected) c->w_hh = numbers(c->dtype, G * c->H * c->O, bound);
    if (integer(0, 3)) c->b_ih = numbers(c->dtype, G * c->H, bound);
    if (c->b_ih && !p.is->unconnected) c->b_hh = numbers(c->dtype, G * c->H, bound);
    if (c->O < c->H) c->w_hr = numbers(c->dtype, c->O * c->H, bound);
    if (p.is->peepholes && integer(0, 1)) c->peephole = numbers(c->dtype, p.is->peepholes * c->H, bound);

    p.steps = (frnn_steps){.T = T, .B = B, .reverse = (int)integer(0, 1)};
    const int64_t some_end = integer(0, 2);
    if (some_end == 1) {
        int64_t *lengths = guarded((size_t)B * 8, 0), *order = guarded((size_t)B * 8, 0), at = 0;
        for (int64_t b = 0; b < B; b++) lengths[b] = integer(0, T);
        for (int64_t length = T; length >= 0; length--)
            for (int64_t b = 0; b < B; b++)
                if (lengths[b] == length) order[at++] = b;
        p.steps.lengths = lengths, p.steps.order = order;
    }
    if (some_end == 2) {
        uint8_t *resets = guarded((size_t)(T * B), 0);
        for (int64_t k = 0; k < T * B; k++) resets[k] = integer(0, 3) == 0;
        p.steps.resets = resets;
    }
    const int64_t gap = integer(0, 1); /* else x is one block and need not be gathered */
    p.x = (frnn_series){numbers(c->dtype, (T * B - 1) * (c->I + gap) + c->I, 1), B * (c->I + gap), c->I + gap};
    p.dy = (frnn_series){numbers(c->dtype, T * B * c->O, 1), B * c->O, c->O};
    p.h0 = numbers(c->dtype, B * c->O, 1), p.dh_n = numbers(c->dtype, B * c->O, 1);
    const int64_t C = p.is->has_c * c->H;
    if (C) p.c0 = numbers(c->dtype, B * C, 1), p.dc_n = numbers(c->dtype, B * C, 1);
    for (int64_t b = 0; p.is->has_c > 1 && b < B; b++) /* n is a sum of positive terms */
        for (int64_t u = b * C + c->H; u < b * C + 2 * c->H; u++) {
            if (c->dtype == FRNN_F32)
                ((float *)p.c0)[u] = 2 + ((const float *)p.c0)[u];
            else
                ((double *)p.c0)[u] = 2 + ((const double *)p.c0)[u];
        }
    return p;
}

/* Nothing where there is no such result. */
static results room(const problem *p) {
    const frnn_cell *c = &p->cell;
    const int64_t T = p->steps.T, B = p->steps.B, K = p->is->recorded, has_c = p->is->has_c;
    const int64_t G = p->is->gates, bias = c->b_ih ? G * c->H : 0, connected = !p->is->unconnected;
    results r = {{0},
                 {T * B * c->O, B * c->O, has_c * B * c->H, T * B * K * c->H, has_c * T * B * c->H, T * B * c->I,
                  B * c->O, has_c * B * c->H, G * c->H * c->I, connected * G * c->H * c->O / c->heads, bias,
                  connected * bias, c->w_hr ? c->O * c->H : 0, c->peephole ? p->is->peepholes * c->H : 0}};
    for (int k = 0; k < RESULTS; k++)
        if (r.count[k]) r.data[k] = guarded((size_t)r.count[k] * size_of(c->dtype), 0);
    return r;
}

static results run(problem p, int threads) {
    results r = room(&p);
    const int64_t B = p.steps.B;
    const frnn_series y = {r.data[0], B * p.cell.O, p.cell.O}, dx = {r.data[5], B * p.cell.I, p.cell.I};
    const frnn_record record = {r.data[3], r.data[4]};
    void *packed = guarded((size_t)frnn_pack_bytes(&p.cell, FRNN_FORWARD), 0);
    frnn_pack(&p.cell, FRNN_FORWARD, threads, packed);
    p.cell.packed = packed;
    const frnn_forward_args forward = {p.steps, p.x, p.h0, p.c0, y, r.data[1], r.data[2], record};
    const frnn_cell *const cells[] = {&p.cell};
    frnn_forward(1, cells, &forward, threads, guarded((size_t)frnn_forward_workspace(&p.cell, &forward, threads), 0));

    packed = guarded((size_t)frnn_pack_bytes(&p.cell, FRNN_BACKWARD), 0);
    frnn_pack(&p.cell, FRNN_BACKWARD, threads, packed);
    p.cell.packed = packed;
    const frnn_cell_gradient dcell = {r.data[8], r.data[9], r.data[10], r.data[11], r.data[12], r.data[13]};
    const frnn_backward_args backward = {.steps = p.steps,
                                         .x = p.x,
                                         .y = y,
                                         .h0 = p.h0,
                                         .c0 = p.c0,
                                         .record = record,
                                         .dy = p.dy,
                                         .dh_n = p.dh_n,
                                         .dc_n = p.dc_n,
                                         .dx = dx,
                                         .dh0 = r.data[6],
                                         .dc0 = r.data[7],
                                         .dcell = dcell};
    const int64_t size = frnn_backward_workspace(1, cells, &backward, threads);
    frnn_backward(1, cells, &backward, threads, guarded((size_t)size, 0));
    return r;
}

static double value(const results *r, frnn_dtype dtype, int which, int64_t k) {
    return dtype == FRNN_F32 ? (double)((float *)r->data[which])[k] : ((double *)r->data[which])[k];
}

static void compare_results(const char *set, const problem *p, const results *actual, const results *expected) {
    const double eps = p->cell.dtype == FRNN_F32 ? 1.1920929e-07 : 2.220446049250313e-16;
    for (int which = 0; which < RESULTS; which++) {
        double scale = 1; /* as in tests/tolerances.py */
        for (int64_t k = 0; k < expected->count[which]; k++)
            scale = fmax(scale, fabs(value(expected, p->cell.dtype, which, k)));
        for (int64_t k = 0; k < expected->count[which]; k++)
            compare(set, names[which], p->cell.H, k, value(actual, p->cell.dtype, which, k) / scale,
                    value(expected, p->cell.dtype, which, k) / scale, 200 * eps);
    }
}

static void expect_same_bits(const char *set, const problem *p, const results *actual, const results *expected) {
    for (int which = 0; which < RESULTS; which++) {
        checks++;
        if (actual->count[which] && memcmp(actual->data[which], expected->data[which],
                                           (size_t)actual->count[which] * size_of(p->cell.dtype)) != 0)
            fail(set, names[which], p->cell.H, -1, 0, 0);
    }
}

int main(int count, char **arguments) {
    const int problems = count > 1 ? atoi(arguments[1]) : 200;
    const char *set;
    for (int number = 0; number < problems; number++) {
        seed = (uint64_t)number + 1;
        const problem p = draw(number);
        if (strcmp(p.is->name, "rnn_relu") == 0) { /* rounding may decide a gradient at the kink: none, then */
            memset((void *)p.dh_n, 0, (size_t)(p.steps.B * p.cell.O) * size_of(p.cell.dtype));
            memset(p.dy.data, 0, (size_t)(p.steps.T * p.steps.B * p.cell.O) * size_of(p.cell.dtype));
        }
        frnn_team_insist(FRNN_CHOOSE);
        frnn_isa_select("scalar");
        const results expected = run(p, 1);
        const int kept = array_count;
        for (int k = 0; (set = frnn_isa_name(k)) != NULL; k++) {
            frnn_isa_select(set);
            const results alone = run(p, 1);
            compare_results(set, &p, &alone, &expected);
            for (int split = FRNN_BY_ROWS; frnn_has_threads() && split <= FRNN_BY_UNITS; split++)
                for (int threads = 2; threads <= 3; threads++) {
                    frnn_team_insist((frnn_split)split);
                    const results together = run(p, threads);
                    expect_same_bits(set, &p, &together, &alone);
                }
            frnn_team_insist(FRNN_CHOOSE);
            free_arrays_from(kept);
        }
        free_arrays_from(0);
    }
    return report("sequences");
}
