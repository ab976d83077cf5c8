/* What the parts of the interface share: errors, checks, and the layer. */
#ifndef FRNN_CHECKS_H
#define FRNN_CHECKS_H

#include <stdatomic.h>

#include "interface.h"

/* Return `code`; message() says from now on what the format makes. */
int frnn_fail(int code, const char *format, ...);

/* Whether a structure, given by its name and its first field, is as this version has it. When one grows, this is to
 * take its smaller sizes, too. */
int frnn_has_size(const char *name, size_t given, size_t expected);

/* `threads` as teams take it, of an argument that may be 0; or -1 and an error. */
int frnn_checked_threads(int threads);

/* Whether an array is there and aligned for its values. */
int frnn_is_array(const char *name, const void *data, int64_t value_bytes);

/* The product of sizes that are not negative; -1 if so many values, and what calls need beside them, cannot be
 * addressed. */
int64_t frnn_product(int64_t a, int64_t b, int64_t c);

struct FastRNN_Layer {
    atomic_int owners;
    frnn_stack stack;
    FastRNN_LayerInfo info;
    int64_t value_bytes;               /* of a float or double */
    const char *initial_h, *initial_c; /* (L*D, O), (L*D, H); or null: zeros */
};

/* As the interface has them: one owner more, one less. */
FastRNN_Layer *frnn_layer_keep(FastRNN_Layer *layer);
void frnn_layer_release(FastRNN_Layer *layer);

/* Set n rows of states h (L*D, S, O) and c (L*D, S, H) to the start of a sequence; with rows null the first n. */
void frnn_layer_start(const FastRNN_Layer *layer, int64_t n, const int64_t *rows, int64_t S, char *h, char *c);

/* Values in the widest row that a step has anywhere. */
int64_t frnn_layer_widest(const FastRNN_Layer *layer);

/* The interface's functions, see capi.h. */
FastRNN_Layer *frnn_layer_of_arrays(const FastRNN_LayerSpec *spec, const FastRNN_Weights *weights, int64_t count);
int frnn_layer_info(const FastRNN_Layer *layer, FastRNN_LayerInfo *info);
int frnn_layer_run(const FastRNN_Layer *layer, const FastRNN_Run *run);
FastRNN_Stream *frnn_stream_new(FastRNN_Layer *layer, int64_t B, int threads);
void frnn_stream_free(FastRNN_Stream *stream);
int frnn_stream_step(FastRNN_Stream *stream, int64_t n, const int64_t *rows, const void *x, size_t x_bytes, void *y,
                     size_t y_bytes);
int frnn_stream_reset(FastRNN_Stream *stream, int64_t n, const int64_t *rows);
int frnn_stream_get_state(FastRNN_Stream *stream, void *h, size_t h_bytes, void *c, size_t c_bytes);
int frnn_stream_set_state(FastRNN_Stream *stream, const void *h, size_t h_bytes, const void *c, size_t c_bytes);

#endif
