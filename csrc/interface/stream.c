/* Streams of the C interface. */
#include <string.h>

#include "../compiler.h"
#include "../kept.h"
#include "checks.h"

struct FastRNN_Stream {
    FastRNN_Layer *layer;
    int threads;
    frnn_stack_args args; /* of a step; x, y and rows are each step's own */
    size_t h_bytes, c_bytes;
    int64_t *rows, *last; /* (B): those of a step that has some; the last step that each row was in */
    int64_t turn;
    void *workspace;
    atomic_int busy;
};

static size_t aligned(int64_t bytes) { return (size_t)(bytes + 63) / 64 * 64; }

FastRNN_Stream *frnn_stream_new(FastRNN_Layer *layer, int64_t B, int threads) {
    if (!layer) {
        frnn_fail(FASTRNN_INVALID, "layer: expected an address, got NULL");
        return NULL;
    }
    const FastRNN_LayerInfo *is = &layer->info;
    const int64_t L = is->num_layers;
    if (is->num_directions > 1 || is->reverse) {
        frnn_fail(FASTRNN_INVALID, "layer: expected one that runs forwards only, got one that starts at the end");
        return NULL;
    }
    if (B < 1 || frnn_product(L, B, frnn_layer_widest(layer)) < 0) {
        frnn_fail(FASTRNN_INVALID, "B: expected at least 1, and states that can be addressed, got %lld", (long long)B);
        return NULL;
    }
    threads = frnn_checked_threads(threads);
    if (threads < 0) return NULL;

    frnn_stack_args args = {.steps = {.T = 1, .B = B}, .S = B};
    args.x.stride_b = is->input_size, args.x.stride_t = B * is->input_size;
    args.y.stride_b = is->output_size, args.y.stride_t = B * is->output_size;
    const int64_t h_bytes = L * B * is->state_size * layer->value_bytes;
    const int64_t c_bytes = L * B * is->has_c * is->hidden_size * layer->value_bytes;
    const size_t head = aligned(sizeof(FastRNN_Stream)), rows = aligned(B * (int64_t)sizeof(int64_t));
    const int64_t workspace = frnn_stack_workspace(&layer->stack, &args, threads);
    char *base = frnn_shared_new((int64_t)(head + aligned(h_bytes) + aligned(c_bytes) + 2 * rows) + workspace);
    if (!base) {
        frnn_fail(FASTRNN_NO_MEMORY, "no memory for a stream of B = %lld", (long long)B);
        return NULL;
    }
    char *at = base + head;
    args.h = at, at += aligned(h_bytes);
    args.c = is->has_c ? at : NULL, at += aligned(c_bytes);
    int64_t *own = (int64_t *)(void *)at, *last = (int64_t *)(void *)(at + rows);
    memset(last, 0, rows);
    FastRNN_Stream *stream = (FastRNN_Stream *)(void *)base;
    *stream = (FastRNN_Stream){
        .layer = frnn_layer_keep(layer),
        .threads = threads,
        .args = args,
        .h_bytes = (size_t)h_bytes,
        .c_bytes = (size_t)c_bytes,
        .rows = own,
        .last = last,
        .workspace = at + 2 * rows,
    };
    frnn_layer_start(layer, B, NULL, B, args.h, args.c);
    return stream;
}

void frnn_stream_free(FastRNN_Stream *stream) {
    if (!stream) return;
    frnn_layer_release(stream->layer);
    frnn_shared_disown(stream);
}

/* One thread at a time. */
static int enter(FastRNN_Stream *stream) {
    if (!stream) return frnn_fail(FASTRNN_INVALID, "stream: expected an address, got NULL");
    if (atomic_exchange_explicit(&stream->busy, 1, memory_order_acquire))
        return frnn_fail(FASTRNN_BUSY, "stream: expected one thread at a time, got a call while another thread's runs");
    return FASTRNN_OK;
}

static int leave(FastRNN_Stream *stream, int code) {
    atomic_store_explicit(&stream->busy, 0, memory_order_release);
    return code;
}

/* The rows of a call are copied, so that they stay what was checked. */
static int take_rows(FastRNN_Stream *stream, int64_t n, const int64_t *rows) {
    const int64_t B = stream->args.S;
    if (!rows)
        return n == B ? FASTRNN_OK
                      : frnn_fail(FASTRNN_INVALID, "n: expected %lld, all rows, got %lld", (long long)B, (long long)n);
    if (n < 0 || n > B)
        return frnn_fail(FASTRNN_INVALID, "n: expected 0 to %lld, got %lld", (long long)B, (long long)n);
    if (!frnn_is_array("rows", rows, sizeof *rows)) return FASTRNN_INVALID;
    if (!frnn_distinct_rows(n, rows, B, ++stream->turn, stream->last, stream->rows))
        return frnn_fail(FASTRNN_INVALID, "rows: expected distinct rows in 0..%lld, got others", (long long)(B - 1));
    return FASTRNN_OK;
}

static int check_bytes(const char *name, size_t given, size_t expected) {
    if (given == expected) return 1;
    frnn_fail(FASTRNN_INVALID, "%s_bytes: expected %zu, got %zu", name, expected, given);
    return 0;
}

static int step(FastRNN_Stream *stream, int64_t n, const int64_t *rows, const void *x, size_t x_bytes, void *y,
                size_t y_bytes) {
    const FastRNN_Layer *layer = stream->layer;
    frnn_stack_args *args = &stream->args;
    if (take_rows(stream, n, rows)) return FASTRNN_INVALID;
    if (!check_bytes("x", x_bytes, (size_t)(n * args->x.stride_b * layer->value_bytes)) ||
        !check_bytes("y", y_bytes, (size_t)(n * args->y.stride_b * layer->value_bytes)) ||
        !frnn_is_array("x", x, layer->value_bytes) || !frnn_is_array("y", y, layer->value_bytes))
        return FASTRNN_INVALID;
    if ((uintptr_t)x < (uintptr_t)y + y_bytes && (uintptr_t)y < (uintptr_t)x + x_bytes)
        return frnn_fail(FASTRNN_INVALID, "x, y: expected arrays that do not overlap, got some that do");
    args->x.data = (void *)x, args->y.data = y;
    args->steps.B = n, args->rows = rows ? stream->rows : NULL;
    if (n > 0) frnn_stack_run(&layer->stack, args, stream->threads, stream->workspace);
    return FASTRNN_OK;
}

int frnn_stream_step(FastRNN_Stream *stream, int64_t n, const int64_t *rows, const void *x, size_t x_bytes, void *y,
                     size_t y_bytes) {
    const int wrong = enter(stream);
    return wrong ? wrong : leave(stream, step(stream, n, rows, x, x_bytes, y, y_bytes));
}

int frnn_stream_reset(FastRNN_Stream *stream, int64_t n, const int64_t *rows) {
    int wrong = enter(stream);
    if (wrong) return wrong;
    wrong = take_rows(stream, n, rows);
    if (!wrong)
        frnn_layer_start(stream->layer, n, rows ? stream->rows : NULL, stream->args.S, stream->args.h, stream->args.c);
    return leave(stream, wrong);
}

/* Whether a caller's state has the sizes of the stream's. */
static int check_state(const FastRNN_Stream *stream, const void *h, size_t h_bytes, const void *c, size_t c_bytes) {
    if (!check_bytes("h", h_bytes, stream->h_bytes) || !check_bytes("c", c_bytes, stream->c_bytes)) return 0;
    if (h && !c == !stream->args.c) return 1;
    frnn_fail(FASTRNN_INVALID, "h, c: expected arrays, and c NULL exactly if the layer has none");
    return 0;
}

int frnn_stream_get_state(FastRNN_Stream *stream, void *h, size_t h_bytes, void *c, size_t c_bytes) {
    const int wrong = enter(stream);
    if (wrong) return wrong;
    if (!check_state(stream, h, h_bytes, c, c_bytes)) return leave(stream, FASTRNN_INVALID);
    memcpy(h, stream->args.h, h_bytes);
    if (c) memcpy(c, stream->args.c, c_bytes);
    return leave(stream, FASTRNN_OK);
}

int frnn_stream_set_state(FastRNN_Stream *stream, const void *h, size_t h_bytes, const void *c, size_t c_bytes) {
    const int wrong = enter(stream);
    if (wrong) return wrong;
    if (!check_state(stream, h, h_bytes, c, c_bytes)) return leave(stream, FASTRNN_INVALID);
    memcpy(stream->args.h, h, h_bytes);
    if (c) memcpy(stream->args.c, c, c_bytes);
    return leave(stream, FASTRNN_OK);
}
