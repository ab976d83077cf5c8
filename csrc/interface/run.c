/* A layer of the C interface over whole sequences. */
#include <stdint.h>
#include <string.h>

#include "../compiler.h"
#include "../kept.h"
#include "checks.h"

static FRNN_THREAD_LOCAL int runs;

int frnn_interface_runs(void) { return runs; }

/* ---- Checks ---- */

/* An array of a call: where it begins and ends. */
typedef struct {
    const char *name;
    uintptr_t first, end; /* the same where it has no values, or is not there */
} extent;

static extent extent_of(const char *name, const void *data, int64_t bytes) {
    const uintptr_t first = (uintptr_t)data;
    return (extent){name, first, data && bytes > 0 ? first + (uintptr_t)bytes : first};
}

static int overlap(const extent *a, const extent *b) {
    return a->first < a->end && b->first < b->end && a->first < b->end && b->first < a->end;
}

/* A series (T, B, n) with the caller's strides. Sets `bytes` from its first value to its last. */
static int take_series(const char *name, const FastRNN_Run *run, const void *data, int64_t n, int64_t step, int64_t row,
                       int64_t value_bytes, frnn_series *series, int64_t *bytes) {
    const int64_t T = run->T, B = run->B;
    *series = (frnn_series){(void *)data, step, row};
    *bytes = 0;
    if (step == 0 && row == 0) series->stride_t = B * n, series->stride_b = n;
    if (T == 0 || B == 0) return 1;
    if (!frnn_is_array(name, data, value_bytes)) return 0;
    if (step < 0 || row < 0) {
        frnn_fail(FASTRNN_INVALID, "%s: expected strides that are not negative, got %lld (step) and %lld (row)", name,
                  (long long)step, (long long)row);
        return 0;
    }
    const int64_t steps = frnn_product(T - 1, T > 1 ? series->stride_t : 0, 1);
    const int64_t rows = frnn_product(B - 1, B > 1 ? series->stride_b : 0, 1);
    if (steps < 0 || rows < 0) {
        frnn_fail(FASTRNN_INVALID, "%s: expected strides within an address, got %lld (step) and %lld (row)", name,
                  (long long)step, (long long)row);
        return 0;
    }
    *bytes = ((T > 1 ? (T - 1) * series->stride_t : 0) + (B > 1 ? (B - 1) * series->stride_b : 0) + n) * value_bytes;
    return 1;
}

/* Whether no two rows of y lie upon each other. */
static int rows_apart(const FastRNN_Run *run, const frnn_series *y, int64_t n) {
    const int64_t T = run->T, B = run->B;
    const int64_t step = T > 1 ? y->stride_t : INT64_MAX, row = B > 1 ? y->stride_b : INT64_MAX;
    if (T == 0 || B == 0) return 1;
    const int apart = step < row ? step >= n && (B == 1 || row - n >= (T - 1) * step)
                                 : row >= n && (T == 1 || step - n >= (B - 1) * row);
    if (!apart)
        frnn_fail(FASTRNN_INVALID, "y: expected strides with which rows do not overlap, got %lld (step) and %lld (row)",
                  (long long)y->stride_t, (long long)y->stride_b);
    return apart;
}

static int check_lengths(const FastRNN_Run *run) {
    for (int64_t b = 0; b < run->B; b++)
        if (run->lengths[b] < 0 || run->lengths[b] > run->T) {
            frnn_fail(FASTRNN_INVALID, "lengths[%lld]: expected 0 to %lld, got %lld", (long long)b, (long long)run->T,
                      (long long)run->lengths[b]);
            return 0;
        }
    return 1;
}

/* What is wrong with sizes and with which arrays there are. */
static int check(const FastRNN_Layer *layer, const FastRNN_Run *run) {
    if (!layer || !run) return frnn_fail(FASTRNN_INVALID, "%s: expected an address, got NULL", layer ? "run" : "layer");
    const FastRNN_LayerInfo *is = &layer->info;
    if (!frnn_has_size("FastRNN_Run", run->size, sizeof *run)) return FASTRNN_INVALID;
    if (run->dtype != is->dtype)
        return frnn_fail(FASTRNN_INVALID, "dtype: expected the layer's, %d, got %d", is->dtype, run->dtype);
    if (run->T < 0 || run->B < 0)
        return frnn_fail(FASTRNN_INVALID, "T, B: expected sizes of at least 0, got %lld, %lld", (long long)run->T,
                         (long long)run->B);
    if (run->input_size != is->input_size)
        return frnn_fail(FASTRNN_INVALID, "input_size: expected the layer's, %lld, got %lld", (long long)is->input_size,
                         (long long)run->input_size);
    if (run->output_size != is->output_size)
        return frnn_fail(FASTRNN_INVALID, "output_size: expected the layer's, %lld, got %lld",
                         (long long)is->output_size, (long long)run->output_size);
    const int64_t count = is->num_layers * is->num_directions;
    if (frnn_product(run->T, run->B, frnn_layer_widest(layer)) < 0 ||
        frnn_product(count, run->B, frnn_layer_widest(layer)) < 0)
        return frnn_fail(FASTRNN_INVALID, "T, B: expected sizes of arrays that can be addressed, got %lld, %lld",
                         (long long)run->T, (long long)run->B);
    if (!is->has_c && (run->c0 || run->c_n))
        return frnn_fail(FASTRNN_INVALID, "%s: expected NULL of a layer without c, got an array",
                         run->c0 ? "c0" : "c_n");
    if (is->has_c && !run->h0 != !run->c0)
        return frnn_fail(FASTRNN_INVALID, "h0, c0: expected both or none, got one of them");
    if ((run->h0 && !frnn_is_array("h0", run->h0, layer->value_bytes)) ||
        (run->c0 && !frnn_is_array("c0", run->c0, layer->value_bytes)) ||
        (run->h_n && !frnn_is_array("h_n", run->h_n, layer->value_bytes)) ||
        (run->c_n && !frnn_is_array("c_n", run->c_n, layer->value_bytes)) ||
        (run->lengths && !frnn_is_array("lengths", run->lengths, sizeof(int64_t))))
        return FASTRNN_INVALID;
    if (run->resets && layer->initial_h)
        return frnn_fail(FASTRNN_INVALID, "resets: expected NULL, because they set states to zero and not to the "
                                          "learnt ones, got an array");
    return FASTRNN_OK;
}

/* Whether nothing overlaps what is written, but for the state that it replaces. */
static int apart(const FastRNN_Layer *layer, const FastRNN_Run *run, int64_t x_bytes, int64_t y_bytes) {
    const FastRNN_LayerInfo *is = &layer->info;
    const int64_t states = is->num_layers * is->num_directions * run->B * layer->value_bytes;
    const int64_t h = states * is->state_size, c = states * is->has_c * is->hidden_size;
    const extent all[] = {
        extent_of("y", run->y, y_bytes),
        extent_of("h_n", run->h_n, h),
        extent_of("c_n", run->c_n, c),
        extent_of("x", run->x, x_bytes),
        extent_of("h0", run->h0, h),
        extent_of("c0", run->c0, c),
        extent_of("lengths", run->lengths, run->B * (int64_t)sizeof(int64_t)),
        extent_of("resets", run->resets, run->T * run->B),
    };
    const int outputs = 3, count = sizeof all / sizeof *all, replaced = 3; /* h_n may be h0, c_n c0 */
    for (int i = 0; i < outputs; i++)
        for (int k = i + 1; k < count; k++) {
            if (i > 0 && k == i + replaced && all[i].first == all[k].first) continue;
            if (!overlap(all + i, all + k)) continue;
            frnn_fail(FASTRNN_INVALID, "%s, %s: expected arrays that do not overlap, got some that do", all[i].name,
                      all[k].name);
            return 0;
        }
    return 1;
}

/* ---- Running ---- */

/* The rows by falling length; `counts` has room for T + 2 numbers. */
static void order_rows(const FastRNN_Run *run, int64_t *counts, int64_t *order) {
    memset(counts, 0, (size_t)(run->T + 2) * sizeof *counts);
    for (int64_t b = 0; b < run->B; b++) counts[run->T - run->lengths[b] + 1]++;
    for (int64_t t = 0; t <= run->T; t++) counts[t + 1] += counts[t];
    for (int64_t b = 0; b < run->B; b++) order[counts[run->T - run->lengths[b]]++] = b;
}

static size_t aligned(int64_t bytes) { return (size_t)(bytes + 63) / 64 * 64; }

int frnn_layer_run(const FastRNN_Layer *layer, const FastRNN_Run *run) {
    const int wrong = check(layer, run), threads = wrong ? -1 : frnn_checked_threads(run->threads);
    if (threads < 0) return FASTRNN_INVALID;
    const FastRNN_LayerInfo *is = &layer->info;
    const int64_t T = run->T, B = run->B, states = is->num_layers * is->num_directions * B;
    frnn_stack_args args = {.steps = {.T = T, .B = B, .resets = run->resets}, .S = B};
    int64_t x_bytes, y_bytes;
    if (!take_series("x", run, run->x, is->input_size, run->x_step, run->x_row, layer->value_bytes, &args.x,
                     &x_bytes) ||
        !take_series("y", run, run->y, is->output_size, run->y_step, run->y_row, layer->value_bytes, &args.y,
                     &y_bytes) ||
        !rows_apart(run, &args.y, is->output_size) || !apart(layer, run, x_bytes, y_bytes))
        return FASTRNN_INVALID;
    if (run->lengths && !check_lengths(run)) return FASTRNN_INVALID;

    /* One block: states that the caller does not want, the order of rows, and the workspace. */
    const int64_t h_bytes = states * is->state_size * layer->value_bytes;
    const int64_t c_bytes = states * is->has_c * is->hidden_size * layer->value_bytes;
    const size_t own_h = run->h_n ? 0 : aligned(h_bytes), own_c = run->c_n ? 0 : aligned(c_bytes);
    const size_t order = run->lengths ? aligned(B * (int64_t)sizeof(int64_t)) : 0;
    const size_t counts = run->lengths ? aligned((T + 2) * (int64_t)sizeof(int64_t)) : 0;
    args.steps.lengths = run->lengths;
    const int64_t workspace = frnn_stack_workspace(&layer->stack, &args, threads);
    char *base = frnn_shared_new((int64_t)(own_h + own_c + order + counts) + workspace);
    if (!base)
        return frnn_fail(FASTRNN_NO_MEMORY, "no memory for a run of T = %lld, B = %lld", (long long)T, (long long)B);
    args.h = run->h_n ? run->h_n : base;
    args.c = !is->has_c ? NULL : run->c_n ? run->c_n : base + own_h;
    if (run->lengths) {
        int64_t *const rows = (int64_t *)(void *)(base + own_h + own_c);
        order_rows(run, (int64_t *)(void *)(base + own_h + own_c + order), rows);
        args.steps.order = rows;
    }
    if (!run->h0) {
        frnn_layer_start(layer, B, NULL, B, args.h, args.c);
    } else {
        if (args.h != run->h0) memcpy(args.h, run->h0, (size_t)h_bytes);
        if (args.c && args.c != run->c0) memcpy(args.c, run->c0, (size_t)c_bytes);
    }
    runs++;
    if (B > 0) frnn_stack_run(&layer->stack, &args, threads, base + own_h + own_c + order + counts);
    runs--;
    frnn_shared_disown(base);
    return FASTRNN_OK;
}
