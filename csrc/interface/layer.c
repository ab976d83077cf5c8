/* Layers of the C interface. */
#include <float.h>
#include <math.h>
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
        .heads = (int)spec->num_heads,
        .linear = spec->linear != 0,
        .clip = spec->clip,
        .zoneout = spec->zoneout,
        .zoneout_cell = spec->zoneout_cell,
        .norm.eps = spec->layer_norm_eps,
        .I = layer ? spec->num_directions * O : spec->input_size,
        .H = spec->hidden_size,
        .O = O,
    };
}

/* Whether a number is from 0 up to but not including `end`. */
static int is_in(const char *name, double value, double end) {
    if (value >= 0 && value < end) return 1;
    frnn_fail(-1, "%s: expected a number from 0 up to but not including %g, got %g", name, end, value);
    return 0;
}

/* Whether the options are there that are said to be of this cell, and fit each other. */
static int has_options(const FastRNN_LayerSpec *spec, const frnn_description *is) {
    const int lstm = is->output_gate > 0, gru = !strncmp(is->name, "gru", 3), rnn = !strncmp(is->name, "rnn", 3);
    const struct {
        const char *name;
        double value;
        int there;
        const char *of;
    } options[] = {
        {"update_replaces", spec->update_replaces, gru, "a GRU"},
        {"proj_size", (double)spec->proj_size, lstm, "an LSTM"},
        {"num_heads", (double)spec->num_heads, is->has_c > 1, "an sLSTM"},
        {"linear", spec->linear, is->unconnected, "a minGRU or minLSTM"},
        {"layer_norm", spec->layer_norm, rnn || lstm || gru, "an RNN, LSTM or GRU"},
        {"clip", spec->clip, rnn || lstm || gru, "an RNN, LSTM or GRU"},
        {"zoneout", spec->zoneout, rnn || lstm || gru, "an RNN, LSTM or GRU"},
        {"zoneout_cell", spec->zoneout_cell, lstm, "an LSTM"},
    };
    for (size_t k = 0; k < sizeof options / sizeof *options; k++)
        if (options[k].value != 0 && !options[k].there) {
            frnn_fail(-1, "%s: expected 0 of a cell that is not %s, got %g", options[k].name, options[k].of,
                      options[k].value);
            return 0;
        }
    if (!is_in("zoneout", spec->zoneout, 1) || !is_in("zoneout_cell", spec->zoneout_cell, 1)) return 0;
    if (!is_in("layer_norm_eps", spec->layer_norm_eps, INFINITY)) return 0;
    if (spec->clip != 0 && !(spec->clip >= FLT_MIN && spec->clip <= FLT_MAX)) {
        frnn_fail(-1, "clip: expected 0 or a number from %g to %g, got %g", FLT_MIN, FLT_MAX, spec->clip);
        return 0;
    }
    if (spec->layer_norm < FASTRNN_NORM_NONE || spec->layer_norm > (gru ? FASTRNN_NORM_SEPARATE : FASTRNN_NORM_SUM)) {
        frnn_fail(-1, "layer_norm: expected one that %s has, got %d", is->name, (int)spec->layer_norm);
        return 0;
    }
    if (spec->layer_norm && spec->clip > 0) {
        frnn_fail(-1, "clip: expected 0 where there is layer normalisation, got %g", spec->clip);
        return 0;
    }
    return 1;
}

#define NAME(cell) " " #cell

/* The kind of the cell, or -1 and an error. */
static int checked_spec(const FastRNN_LayerSpec *spec, const FastRNN_Weights *weights, int64_t count) {
    if (!spec || !weights) return frnn_fail(-1, "%s: expected an address, got NULL", spec ? "weights" : "spec");
    if (!frnn_has_size("FastRNN_LayerSpec", spec->size, sizeof *spec)) return -1;
    const int kind = spec->cell ? frnn_kind(spec->cell) : -1;
    if (kind < 0)
        return frnn_fail(-1, "cell: expected one of" FRNN_CELLS(NAME) ", got %s", spec->cell ? spec->cell : "NULL");
    const int64_t L = spec->num_layers, D = spec->num_directions, I = spec->input_size, H = spec->hidden_size;
    const int64_t P = spec->proj_size, N = spec->num_heads;
    if (spec->dtype != FASTRNN_FLOAT32 && spec->dtype != FASTRNN_FLOAT64)
        return frnn_fail(-1, "dtype: expected FASTRNN_FLOAT32 or FASTRNN_FLOAT64, got %d", (int)spec->dtype);
    if (L < 1 || L > MOST_LAYERS) return frnn_fail(-1, "num_layers: expected 1 to %d, got %d", MOST_LAYERS, (int)L);
    if (D < 1 || D > 2) return frnn_fail(-1, "num_directions: expected 1 or 2, got %d", (int)D);
    if (spec->reverse && D == 2) return frnn_fail(-1, "reverse: expected 0 with two directions, got %d", spec->reverse);
    if (I < 1) return frnn_fail(-1, "input_size: expected at least 1, got %lld", (long long)I);
    if (H < 1) return frnn_fail(-1, "hidden_size: expected at least 1, got %lld", (long long)H);
    if (P < 0 || P >= H)
        return frnn_fail(-1, "proj_size: expected 0 to %lld, got %lld", (long long)(H - 1), (long long)P);
    if (N < 0 || N > H || (N && H % N))
        return frnn_fail(-1, "num_heads: expected a divisor of hidden_size (%lld), got %lld", (long long)H,
                         (long long)N);
    if (H > INT64_MAX / 64 || frnn_product(FRNN_MAX(I, 2 * H), 4 * L, H) < 0)
        return frnn_fail(-1, "input_size, hidden_size: expected weights that can be addressed, got %lld, %lld",
                         (long long)I, (long long)H);
    if (!has_options(spec, frnn_describe(kind))) return -1;
    if (count != L * D)
        return frnn_fail(-1, "count: expected %lld weights, one for each direction of each layer, got %lld",
                         (long long)(L * D), (long long)count);
    return kind;
}

/* Whether the weights are those of the cell; if so, they are put there. */
static int take_weights(const FastRNN_Weights *w, const FastRNN_LayerSpec *spec, frnn_cell *cell) {
    const frnn_description *is = frnn_describe(cell->kind);
    const int sees = !is->unconnected, separate = spec->layer_norm == FASTRNN_NORM_SEPARATE;
    const int sum = spec->layer_norm == FASTRNN_NORM_SUM, norm_c = spec->layer_norm && is->has_c;
    const char *unseen = "of a cell whose gates do not see the state";
    const struct {
        const char *name;
        const void *data;
        int there;
        const char *why_not;
    } arrays[] = {
        {"weight_ih", w->weight_ih, 1, ""},
        {"weight_hh", w->weight_hh, sees, unseen},
        {"bias_ih", w->bias_ih, w->bias_ih != NULL, ""},
        {"bias_hh", w->bias_hh, sees && w->bias_ih, sees ? "as bias_ih is" : unseen},
        {"weight_hr", w->weight_hr, spec->proj_size > 0, "for proj_size is 0"},
        {"peephole", w->peephole, is->peepholes && w->peephole, "of a cell that is no LSTM"},
        {"norm_ih", w->norm_ih, separate, "but for FASTRNN_NORM_SEPARATE"},
        {"norm_hh", w->norm_hh, separate, "but for FASTRNN_NORM_SEPARATE"},
        {"norm", w->norm, sum, "but for FASTRNN_NORM_SUM"},
        {"norm_c", w->norm_c, norm_c, "but for an LSTM with layer normalisation"},
        {"bias_c", w->bias_c, norm_c && w->bias_c, "but for an LSTM with layer normalisation"},
    };
    for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++) {
        if (arrays[k].there && !frnn_is_array(arrays[k].name, arrays[k].data, cell->dtype == FRNN_F32 ? 4 : 8))
            return 0;
        if (!arrays[k].there && arrays[k].data) {
            frnn_fail(FASTRNN_INVALID, "%s: expected NULL %s, got an array", arrays[k].name, arrays[k].why_not);
            return 0;
        }
    }
    cell->w_ih = w->weight_ih, cell->w_hh = w->weight_hh, cell->b_ih = w->bias_ih, cell->b_hh = w->bias_hh;
    cell->w_hr = w->weight_hr, cell->peephole = w->peephole;
    cell->norm.ih = w->norm_ih, cell->norm.hh = w->norm_hh, cell->norm.sum = w->norm;
    cell->norm.c = w->norm_c, cell->norm.bias_c = w->bias_c;
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
            fit = fit && take_weights(weights + k, spec, cells + k);
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
