/* The table, and what its functions say when something is wrong. */
#include "interface.h"

#include <stdarg.h>
#include <stdio.h>

#include "checks.h"
#include "../compiler.h"

static FRNN_THREAD_LOCAL char message[256];
static frnn_python python;

static const char *last_message(void) { return message; }

int frnn_fail(int code, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    return code;
}

int frnn_has_size(const char *name, size_t given, size_t expected) {
    if (given == expected) return 1;
    frnn_fail(FASTRNN_INVALID, "%s.size: expected sizeof(%s), %zu, got %zu", name, name, expected, given);
    return 0;
}

int frnn_checked_threads(int threads) {
    if (threads == 0) return python.num_threads();
    if (threads > 0 && threads <= FRNN_MOST_THREADS) return threads;
    return frnn_fail(-1, "threads: expected 0 to %d, got %d", FRNN_MOST_THREADS, threads);
}

int frnn_is_array(const char *name, const void *data, int64_t value_bytes) {
    if (!data) {
        frnn_fail(FASTRNN_INVALID, "%s: expected an array, got NULL", name);
        return 0;
    }
    if ((uintptr_t)data % (uintptr_t)value_bytes) {
        frnn_fail(FASTRNN_INVALID, "%s: expected an address that is a multiple of %d, got %p", name, (int)value_bytes,
                  (void *)data);
        return 0;
    }
    return 1;
}

int64_t frnn_product(int64_t a, int64_t b, int64_t c) {
    const int64_t limit = (INT64_MAX < PTRDIFF_MAX ? INT64_MAX : PTRDIFF_MAX) / 64;
    a = FRNN_MAX(1, a), b = FRNN_MAX(1, b), c = FRNN_MAX(1, c);
    return a > limit / b || a * b > limit / c ? -1 : a * b * c;
}

const FastRNN_API *frnn_interface(frnn_python with) {
    static FastRNN_API table = {
        .abi = FASTRNN_ABI,
        .version = FASTRNN_API_VERSION,
        .size = sizeof table,
        .message = last_message,
        .layer_new = frnn_layer_of_arrays,
        .layer_keep = frnn_layer_keep,
        .layer_release = frnn_layer_release,
        .layer_info = frnn_layer_info,
        .layer_run = frnn_layer_run,
        .stream_new = frnn_stream_new,
        .stream_free = frnn_stream_free,
        .stream_step = frnn_stream_step,
        .stream_reset = frnn_stream_reset,
        .stream_get_state = frnn_stream_get_state,
        .stream_set_state = frnn_stream_set_state,
    };
    python = with;
    table.num_threads = with.num_threads;
    table.layer_from_object = with.layer_from_object;
    return &table;
}
