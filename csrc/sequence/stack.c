#include "stack.h"

#include "../cells/cells.h"
#include "../compiler.h"

/* What lies between the layers of a stack that is not reversed at a time, whatever T is. */
#define CHUNK_BYTES (1 << 19)

static int64_t value_bytes(const frnn_stack *stack) { return stack->cells[0]->dtype == FRNN_F32 ? 4 : 8; }

static int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* How many steps go through all layers before the next ones. A reversed direction needs the whole sequence of the layer
 * below first. */
static int64_t chunk_of(const frnn_stack *stack, const frnn_stack_args *args) {
    const int64_t T = args->steps.T, step = args->steps.B * stack->cells[0]->O * value_bytes(stack);
    if (stack->layers == 1 || stack->reverse[0] || stack->directions > 1) return FRNN_MAX(1, T);
    return FRNN_MAX(1, FRNN_MIN(T, CHUNK_BYTES / FRNN_MAX(1, step)));
}

/* What lies between two layers, for the steps of a chunk. */
static frnn_series between_of(const frnn_stack *stack, int64_t B, void *data) {
    const int64_t row = stack->directions * stack->cells[0]->O;
    return (frnn_series){data, B * row, row};
}

static int64_t between_bytes(const frnn_stack *stack, int64_t B, int64_t chunk) {
    return stack->layers == 1 ? 0 : aligned(chunk * between_of(stack, B, NULL).stride_t * value_bytes(stack));
}

static int64_t lengths_bytes(const frnn_steps *steps) {
    return steps->lengths ? aligned(steps->B * (int64_t)sizeof(int64_t)) : 0;
}

/* Of a layer's run; -1 as frnn_forward_workspace has it. */
static int64_t layer_bytes(const frnn_stack *stack, const frnn_stack_args *args, int64_t chunk, int layer,
                           int threads) {
    const frnn_series below = layer ? between_of(stack, args->steps.B, NULL) : args->x;
    frnn_forward_args run = {.steps = args->steps, .x = below};
    int64_t total = 0;
    run.steps.T = chunk;
    for (int d = 0; d < stack->directions; d++) {
        const int64_t one = frnn_forward_workspace(stack->cells[layer * stack->directions + d], &run, threads);
        if (one < 0) return -1;
        total += one;
    }
    return total;
}

int64_t frnn_stack_workspace(const frnn_stack *stack, const frnn_stack_args *args, int threads) {
    const int64_t chunk = chunk_of(stack, args);
    const int64_t bottom = layer_bytes(stack, args, chunk, 0, threads);
    const int64_t upper = stack->layers > 1 ? layer_bytes(stack, args, chunk, 1, threads) : 0; /* and all others */
    if (bottom < 0 || upper < 0) return -1;
    return lengths_bytes(&args->steps) + 2 * between_bytes(stack, args->steps.B, chunk) + FRNN_MAX(bottom, upper);
}

/* Some steps of a layer, whose first cell is the k-th. */
static void run_layer(const frnn_stack *stack, const frnn_stack_args *args, const frnn_steps *steps, int k,
                      frnn_series below, frnn_series above, int threads, void *workspace) {
    const int64_t bytes = value_bytes(stack);
    frnn_forward_args runs[2];
    for (int d = 0; d < stack->directions; d++) {
        const frnn_cell *cell = stack->cells[k + d];
        char *h = (char *)args->h + (k + d) * args->S * cell->O * bytes;
        const int64_t C = frnn_describe(cell->kind)->has_c * cell->H;
        char *c = args->c ? (char *)args->c + (k + d) * args->S * C * bytes : NULL;
        frnn_series y = above;
        y.data = (char *)above.data + d * cell->O * bytes;
        runs[d] = (frnn_forward_args){
            .steps = *steps, .x = below, .h0 = h, .c0 = c, .y = y, .h_n = h, .c_n = c, .rows = args->rows};
        runs[d].steps.reverse = stack->reverse[d];
    }
    frnn_forward(stack->directions, stack->cells + k, runs, threads, workspace);
}

void frnn_stack_run(const frnn_stack *stack, const frnn_stack_args *args, int threads, void *workspace) {
    const int64_t T = args->steps.T, B = args->steps.B, chunk = chunk_of(stack, args), bytes = value_bytes(stack);
    const int last = stack->layers - 1;
    int64_t *lengths = workspace;
    char *between = (char *)workspace + lengths_bytes(&args->steps);
    char *room = between + 2 * between_bytes(stack, B, chunk);
    for (int64_t start = 0; start < T; start += chunk) {
        frnn_steps steps = args->steps;
        steps.T = FRNN_MIN(chunk, T - start);
        if (steps.lengths && chunk < T) { /* which keeps their order */
            for (int64_t b = 0; b < B; b++) lengths[b] = FRNN_MAX(0, FRNN_MIN(args->steps.lengths[b] - start, steps.T));
            steps.lengths = lengths;
        }
        if (steps.resets) steps.resets += start * B;
        frnn_series below = args->x, y = args->y;
        below.data = (char *)below.data + start * below.stride_t * bytes;
        y.data = (char *)y.data + start * y.stride_t * bytes;
        for (int layer = 0; layer <= last; layer++) {
            char *half = between + (layer & 1) * between_bytes(stack, B, chunk);
            const frnn_series above = layer < last ? between_of(stack, B, half) : y;
            run_layer(stack, args, &steps, layer * stack->directions, below, above, threads, room);
            below = above;
        }
    }
}

int frnn_distinct_rows(int64_t n, const int64_t *rows, int64_t B, int64_t turn, int64_t *last, int64_t *own) {
    if (n > B) return 0;
    for (int64_t k = 0; k < n; k++) {
        const int64_t row = rows[k];
        if (row < 0 || row >= B || last[row] == turn) return 0;
        own[k] = row, last[row] = turn;
    }
    return 1;
}
