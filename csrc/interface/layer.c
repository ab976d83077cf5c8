/* Layers of the C interface. */
#include <string.h>

#include "../cells/cells.h"
#include "../compiler.h"
#include "../kept.h"
#include "checks.h"

/* ---- Owners ---- */

/* So many bytes of a block, aligned; null of a block that is null, of which only the size counts. */
static void *take(char *base, size_t *used, size_t bytes) {
    void *taken = base ? base + *used : NULL;
    *used += (bytes + 63) / 64 * 64;
    return taken;
}

static const void *copy(char *base, size_t *used, const void *data, int64_t values, int64_t value_bytes) {
    if (!data) return NULL;
    const size_t bytes = (size_t)(values * value_bytes);
    void *to = take(base, used, bytes);
    if (to) memcpy(to, data, bytes);
    return to;
}

/* The layer and all that it copies, in one block, which begins with the layer; with base null only the size counts. */
static size_t lay_out(char *base, const frnn_stack *stack, const void *initial_h, const void *initial_c) {
    const int64_t count = (int64_t)stack->layers * stack->directions;
    const frnn_cell *first = stack->cells[0];
    const int64_t bytes = first->dtype == FRNN_F32 ? 4 : 8, H = first->H, O = first->O;
    const frnn_description *is = frnn_describe(first->kind);
    size_t used = 0;
    FastRNN_Layer *layer = take(base, &used, sizeof *layer);
    const frnn_cell **pointers = take(base, &used, (size_t)count * sizeof *pointers);
    frnn_cell *cells = take(base, &used, (size_t)count * sizeof *cells);
    for (int64_t k = 0; k < count; k++) {
        frnn_cell cell = *stack->cells[k];
        cell.b_ih = copy(base, &used, cell.b_ih, is->gates * H, bytes);
        cell.b_hh = copy(base, &used, cell.b_hh, is->gates * H, bytes);
        cell.peephole = copy(base, &used, cell.peephole, is->peepholes * H, bytes);
        cell.norm.ih = copy(base, &used, cell.norm.ih, is->gates * H, bytes);
        cell.norm.hh = copy(base, &used, cell.norm.hh, is->gates * H, bytes);
        cell.norm.sum = copy(base, &used, cell.norm.sum, is->gates * H, bytes);
        cell.norm.c = copy(base, &used, cell.norm.c, H, bytes);
        cell.norm.bias_c = copy(base, &used, cell.norm.bias_c, H, bytes);
        if (!base) continue;
        cell.packed = frnn_shared_own((void *)cell.packed);
        /* runs read packed weights only, and of the others whether they are there */
        cell.w_ih = cell.packed;
        cell.w_hh = cell.w_hh ? cell.packed : NULL, cell.w_hr = cell.w_hr ? cell.packed : NULL;
        cell.s_ih = cell.s_hh = cell.s_hr = NULL;
        cells[k] = cell, pointers[k] = cells + k;
    }
    const char *h = copy(base, &used, initial_h, count * O, bytes);
    const char *c = copy(base, &used, initial_c, count * is->has_c * H, bytes);
    if (!base) return used;
    *layer = (FastRNN_Layer){.owners = 1, .stack = *stack, .value_bytes = bytes, .initial_h = h, .initial_c = c};
    layer->stack.cells = pointers;
    layer->info = (FastRNN_LayerInfo){
        .size = sizeof layer->info,
        .cell = is->name,
        .dtype = first->dtype == FRNN_F32 ? FASTRNN_FLOAT32 : FASTRNN_FLOAT64,
        .num_layers = stack->layers,
        .num_directions = stack->directions,
        .reverse = stack->directions == 1 && stack->reverse[0],
        .has_c = is->has_c,
        .has_initial_state = initial_h != NULL,
        .input_size = first->I,
        .hidden_size = H,
        .state_size = O,
        .output_size = stack->directions * O,
    };
    return used;
}

FastRNN_Layer *frnn_layer_new(const frnn_stack *stack, const void *initial_h, const void *initial_c) {
    void *base = frnn_shared_new((int64_t)lay_out(NULL, stack, initial_h, initial_c));
    if (base) lay_out(base, stack, initial_h, initial_c);
    return base;
}

FastRNN_Layer *frnn_layer_keep(FastRNN_Layer *layer) {
    if (layer) atomic_fetch_add_explicit(&layer->owners, 1, memory_order_relaxed);
    return layer;
}

void frnn_layer_release(FastRNN_Layer *layer) {
    if (!layer || atomic_fetch_sub_explicit(&layer->owners, 1, memory_order_acq_rel) > 1) return;
    for (int k = 0; k < layer->stack.layers * layer->stack.directions; k++)
        frnn_shared_disown((void *)layer->stack.cells[k]->packed);
    frnn_shared_disown(layer);
}

/* ---- From arrays ---- */

#define MOST_LAYERS 100000 /* far beyond what is used, and small enough that products of it do not overflow */

/* The cell of the first direction of a layer, without weights. */
static frnn_cell cell_of(const FastRNN_LayerSpec *spec, int kind, int layer) {
    const int64_t O = spec->proj_size ? spec->proj_size : spec->hidden_size;
    const int is_f32 = spec->dtype == FASTRNN_FLOAT32;
    return (frnn_cell){
        .kind = kind,
        .dtype = is_f32 ? FRNN_F32 : FRNN_F64,
        .storage = is_f32 ? FRNN_STORED_F32 : FRNN_STORED_F64,
        .replace = spec->update_replaces != 0,
        .I = layer ? spec->num_directions * O : spec->input_size,
        .H = spec->hidden_size,
        .O = O,
    };
}

#define NAME(cell) " " #cell

/* The kind of the cell, or -1 and an error. */
static int checked_spec(const FastRNN_LayerSpec *spec, const FastRNN_Weights *weights, int64_t count) {
    if (!spec || !weights) return frnn_fail(-1, "%s: expected an address, got NULL", spec ? "weights" : "spec");
    if (!frnn_has_size("FastRNN_LayerSpec", spec->size, sizeof *spec)) return -1;
    const int kind = spec->cell ? frnn_kind(spec->cell) : -1;
    if (kind < 0)
        return frnn_fail(-1, "cell: expected one of" FRNN_CELLS(NAME) ", got %s", spec->cell ? spec->cell : "NULL");
    const frnn_description *is = frnn_describe(kind);
    const int64_t L = spec->num_layers, D = spec->num_directions, I = spec->input_size, H = spec->hidden_size;
    if (spec->dtype != FASTRNN_FLOAT32 && spec->dtype != FASTRNN_FLOAT64)
        return frnn_fail(-1, "dtype: expected FASTRNN_FLOAT32 or FASTRNN_FLOAT64, got %d", (int)spec->dtype);
    if (L < 1 || L > MOST_LAYERS) return frnn_fail(-1, "num_layers: expected 1 to %d, got %d", MOST_LAYERS, (int)L);
    if (D < 1 || D > 2) return frnn_fail(-1, "num_directions: expected 1 or 2, got %d", (int)D);
    if (spec->reverse && D == 2) return frnn_fail(-1, "reverse: expected 0 with two directions, got %d", spec->reverse);
    if (spec->update_replaces && strncmp(is->name, "gru", 3) != 0)
        return frnn_fail(-1, "update_replaces: expected 0 of a cell that is no GRU, got %d", spec->update_replaces);
    if (I < 1) return frnn_fail(-1, "input_size: expected at least 1, got %lld", (long long)I);
    if (H < 1) return frnn_fail(-1, "hidden_size: expected at least 1, got %lld", (long long)H);
    if (spec->proj_size < 0 || spec->proj_size >= H)
        return frnn_fail(-1, "proj_size: expected 0 to %lld, got %lld", (long long)(H - 1), (long long)spec->proj_size);
    if (spec->proj_size && !is->output_gate)
        return frnn_fail(-1, "proj_size: expected 0 of a cell that is no LSTM, got %lld", (long long)spec->proj_size);
    if (H > INT64_MAX / 64 || frnn_product(FRNN_MAX(I, 2 * H), 4 * L, H) < 0)
        return frnn_fail(-1, "input_size, hidden_size: expected weights that can be addressed, got %lld, %lld",
                         (long long)I, (long long)H);
    if (count != L * D)
        return frnn_fail(-1, "count: expected %lld weights, one for each direction of each layer, got %lld",
                         (long long)(L * D), (long long)count);
    return kind;
}

/* Whether the weights are those of the cell; if so, they are put there. */
static int take_weights(const FastRNN_Weights *w, int projects, const frnn_description *is, frnn_cell *cell) {
    const int64_t bytes = cell->dtype == FRNN_F32 ? 4 : 8;
    if (!frnn_is_array("weight_ih", w->weight_ih, bytes)) return 0;
    if (!is->unconnected && !frnn_is_array("weight_hh", w->weight_hh, bytes)) return 0;
    if (is->unconnected && (w->weight_hh || w->bias_hh)) {
        frnn_fail(FASTRNN_INVALID,
                  "weight_hh, bias_hh: expected NULL of a cell whose gates do not see the state, got an array");
        return 0;
    }
    if (!is->unconnected && !w->bias_ih != !w->bias_hh) {
        frnn_fail(FASTRNN_INVALID, "bias_ih, bias_hh: expected both or none, got one of them");
        return 0;
    }
    if (w->bias_ih && !frnn_is_array("bias_ih", w->bias_ih, bytes)) return 0;
    if (w->bias_hh && !frnn_is_array("bias_hh", w->bias_hh, bytes)) return 0;
    if (projects && !frnn_is_array("weight_hr", w->weight_hr, bytes)) return 0;
    if (!projects && w->weight_hr) {
        frnn_fail(FASTRNN_INVALID, "weight_hr: expected NULL, for proj_size is 0, got an array");
        return 0;
    }
    if (w->peephole && !is->peepholes) {
        frnn_fail(FASTRNN_INVALID, "peephole: expected NULL of a cell that is no LSTM, got an array");
        return 0;
    }
    if (w->peephole && !frnn_is_array("peephole", w->peephole, bytes)) return 0;
    cell->w_ih = w->weight_ih, cell->w_hh = w->weight_hh, cell->b_ih = w->bias_ih, cell->b_hh = w->bias_hh;
    cell->w_hr = w->weight_hr, cell->peephole = w->peephole;
    return 1;
}

/* Pack all cells; whether there was memory for it. */
static int pack(frnn_cell *cells, int64_t count, int threads) {
    for (int64_t k = 0; k < count; k++) {
        void *packed = frnn_shared_new(frnn_pack_bytes(cells + k, FRNN_FORWARD));
        if (!packed) return 0;
        frnn_pack(cells + k, FRNN_FORWARD, threads, packed);
        cells[k].packed = packed;
    }
    return 1;
}

FastRNN_Layer *frnn_layer_of_arrays(const FastRNN_LayerSpec *spec, const FastRNN_Weights *weights, int64_t count) {
    const int kind = checked_spec(spec, weights, count), threads = kind < 0 ? -1 : frnn_checked_threads(spec->threads);
    if (threads < 0) return NULL;
    char *room = frnn_shared_new(count * (int64_t)(sizeof(frnn_cell) + sizeof(frnn_cell *)));
    FastRNN_Layer *layer = NULL;
    if (room) {
        frnn_cell *cells = (frnn_cell *)(void *)room;
        const frnn_cell **pointers = (const frnn_cell **)(void *)(cells + count);
        int fit = 1;
        for (int64_t k = 0; k < count; k++) {
            pointers[k] = cells + k;
            cells[k] = cell_of(spec, kind, (int)(k / spec->num_directions));
            fit = fit && take_weights(weights + k, spec->proj_size > 0, frnn_describe(kind), cells + k);
        }
        const frnn_stack stack = {spec->num_layers, spec->num_directions, {spec->reverse != 0, 1}, pointers};
        if (!fit) {
            frnn_shared_disown(room);
            return NULL;
        }
        if (pack(cells, count, threads)) layer = frnn_layer_new(&stack, NULL, NULL);
        for (int64_t k = 0; k < count; k++) frnn_shared_disown((void *)cells[k].packed); /* the layer owns them now */
        frnn_shared_disown(room);
    }
    if (!layer) frnn_fail(FASTRNN_NO_MEMORY, "no memory for the layer");
    return layer;
}

/* ---- What a layer is and does ---- */

int frnn_layer_info(const FastRNN_Layer *layer, FastRNN_LayerInfo *info) {
    if (!layer || !info)
        return frnn_fail(FASTRNN_INVALID, "%s: expected an address, got NULL", layer ? "info" : "layer");
    if (!frnn_has_size("FastRNN_LayerInfo", info->size, sizeof *info)) return FASTRNN_INVALID;
    *info = layer->info;
    return FASTRNN_OK;
}

int64_t frnn_layer_widest(const FastRNN_Layer *layer) {
    const FastRNN_LayerInfo *info = &layer->info;
    return FRNN_MAX(5 * info->hidden_size, FRNN_MAX(info->input_size, info->output_size));
}

/* n rows of a state (L*D, S, size), from an initial one (L*D, size) or zeros. */
static void start(const FastRNN_Layer *layer, const char *initial, int64_t size, int64_t n, const int64_t *rows,
                  int64_t S, char *state) {
    const size_t bytes = (size_t)(size * layer->value_bytes);
    for (int k = 0; k < layer->stack.layers * layer->stack.directions; k++)
        for (int64_t j = 0; j < n; j++) {
            char *row = state + (size_t)(k * S + (rows ? rows[j] : j)) * bytes;
            if (initial)
                memcpy(row, initial + (size_t)k * bytes, bytes);
            else
                memset(row, 0, bytes);
        }
}

void frnn_layer_start(const FastRNN_Layer *layer, int64_t n, const int64_t *rows, int64_t S, char *h, char *c) {
    start(layer, layer->initial_h, layer->info.state_size, n, rows, S, h);
    if (c) start(layer, layer->initial_c, layer->info.has_c * layer->info.hidden_size, n, rows, S, c);
}
