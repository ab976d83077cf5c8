/* fastrnn/capi.h: fastrnn's layers and streams for extensions in C (C99), C++ and Cython.
 *
 * FastRNN_Import() gives a table of functions. Those that are not marked "needs the GIL" need neither Python's global
 * lock nor a thread that Python knows: any thread may call them, with the GIL or without, and they never wait for it.
 *
 * Sizes: T time steps, B batch rows, I input size, H hidden units, L layers, D directions, G blocks of gates; O is the
 * size of a direction's output, P if it is projected, else H. Arrays are row-major and hold float or double, as the
 * layer's dtype says. Results are those of fastrnn's frozen layers and streams, to the bit, for any number of threads.
 *
 * Errors. Functions that return int return FASTRNN_OK, or a negative code; functions that return a pointer return NULL.
 * Then nothing was done, and message() says why. Arguments are checked as far as C can: sizes, NULL, alignment, arrays
 * that overlap. That an array is as large as you say is yours to ensure.
 *
 * Stability. Later versions append functions to the table and fields to structures, and change nothing that is there.
 * So an extension runs with the fastrnn that it was built with and with all later ones, without being built again.
 *
 * docs/how-to/c-interface.md has examples.
 */
#ifndef FASTRNN_CAPI_H
#define FASTRNN_CAPI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FASTRNN_ABI 1         /* changes if ever something does change that is there: then extensions are built again */
#define FASTRNN_API_VERSION 1 /* one more whenever something is appended */

/* What functions return. */
#define FASTRNN_OK 0
#define FASTRNN_INVALID (-1)   /* an argument; nothing was done */
#define FASTRNN_NO_MEMORY (-2) /* nothing was done */
#define FASTRNN_BUSY (-3)      /* another thread's call of this stream has not ended */

/* dtypes */
#define FASTRNN_FLOAT32 0
#define FASTRNN_FLOAT64 1

/* Layer normalisation: none, of W x and U h each, or of each gate of W x + U h. */
#define FASTRNN_NORM_NONE 0
#define FASTRNN_NORM_SEPARATE 1
#define FASTRNN_NORM_SUM 2

/* A layer, or several, one upon the other: the weights, packed for the kernels. It never changes, so any number of
 * threads may use it at once. Its owners are counted; it does not depend on the Python object that it was made of. */
typedef struct FastRNN_Layer FastRNN_Layer;

/* B sequences that advance together, one step at a time: their state, and a layer that the stream keeps alive. One
 * thread may use a stream at a time; the others get FASTRNN_BUSY. Its functions allocate nothing but for the first. */
typedef struct FastRNN_Stream FastRNN_Stream;

/* Structures begin with their size: set it to sizeof, and fields that you do not use to 0. */

typedef struct {
    size_t size;               /* in  sizeof(FastRNN_LayerInfo) */
    const char *cell;          /* a name as in FastRNN_LayerSpec; valid as long as the layer */
    int32_t dtype;             /* FASTRNN_FLOAT32 or FASTRNN_FLOAT64 */
    int32_t num_layers;        /* L */
    int32_t num_directions;    /* D: 1 or 2 */
    int32_t reverse;           /* whether the one direction runs from the end to the start; then there are no streams */
    int32_t has_c;             /* 0: the state is h alone; 1: (h, c), as an LSTM's; 3: c has an sLSTM's c, n, m */
    int32_t has_initial_state; /* whether the initial state is learnt instead of zeros */
    int64_t input_size;        /* I */
    int64_t hidden_size;       /* H: of c */
    int64_t state_size;        /* O: of h */
    int64_t output_size;       /* D*O: of y */
} FastRNN_LayerInfo;

typedef struct {
    size_t size;             /* sizeof(FastRNN_LayerSpec) */
    const char *cell;        /* "rnn_tanh", "rnn_relu", "lstm", "lstm_coupled", "gru_after" or "gru_before": a GRU
                              * whose reset gate is applied after the product with the state (PyTorch), or before it;
                              * "slstm"; "min_gru" or "min_lstm" */
    int32_t dtype;           /* of the weights, and of all arrays of the layer: FASTRNN_FLOAT32 or FASTRNN_FLOAT64 */
    int32_t num_layers;      /* L */
    int32_t num_directions;  /* D: 2 runs forwards and backwards */
    int32_t reverse;         /* 1: the one direction runs from the end to the start */
    int32_t update_replaces; /* 1: a GRU's update gate weighs the new state instead of the old one */
    int32_t threads;         /* at most so many pack the weights; 0: as many as calls of Python may use */
    int64_t input_size;      /* I */
    int64_t hidden_size;     /* H */
    int64_t proj_size;       /* P, less than H: an LSTM's outputs are projected; 0: they are not */
    int64_t num_heads;       /* N, a divisor of H: an sLSTM's heads; 0 is 1 */
    int32_t linear;          /* 1: the candidate n of a minGRU or minLSTM is W x + b; 0: it is made positive */
    int32_t layer_norm;      /* FASTRNN_NORM_..., of RNN, LSTM and, but for the sum, GRU; not beside clip */
    double layer_norm_eps;   /* added to variances; PyTorch has 1e-5 */
    double clip;             /* activations of an RNN, LSTM or GRU are given nothing outside -clip..clip; 0: anything */
    double zoneout;          /* less than 1: an RNN, LSTM or GRU computes what is expected of this zoneout of h */
    double zoneout_cell;     /* likewise an LSTM of that of c */
} FastRNN_LayerSpec;

/* One direction of one layer; gates in the order of PyTorch: LSTM i, f, g, o, coupled i, g, o; GRU r, z, n; sLSTM i, f,
 * z, o; minGRU z, n; minLSTM i, f, n. Layers above the first read D*O values. This structure does not grow. */
typedef struct {
    const void *weight_ih; /* (G*H, I) */
    const void *weight_hh; /* (G*H, O), of N heads (G*H, H/N); NULL of minGRU and minLSTM, as is bias_hh */
    const void *bias_ih;   /* (G*H), or NULL */
    const void *bias_hh;   /* (G*H); NULL exactly if bias_ih is */
    const void *weight_hr; /* (P, H): projection; NULL without one */
    const void *peephole;  /* (3, H): p_i, p_f, p_o of an LSTM, coupled (2, H): p_i, p_o; or NULL */
    const void *norm_ih;   /* (G*H) gains of FASTRNN_NORM_SEPARATE, of W x; else NULL, as the next three */
    const void *norm_hh;   /* (G*H) likewise of U h */
    const void *norm;      /* (G*H) gains of FASTRNN_NORM_SUM */
    const void *norm_c;    /* (H) gains of an LSTM's c, of either */
    const void *bias_c;    /* (H) what is added to an LSTM's c that was normalised, or NULL */
} FastRNN_Weights;

typedef struct {
    size_t size;     /* sizeof(FastRNN_Run) */
    int32_t dtype;   /* of x, y and the states: the layer's */
    int32_t threads; /* at most so many; 0: as many as calls of Python may use. Small work takes one */
    int64_t T, B;
    int64_t input_size;  /* of x's last axis: the layer's */
    int64_t output_size; /* of y's last axis: the layer's */

    /* Strides are in values and not negative. Both 0: the array is contiguous. (B, T, I) has the stride I from step to
     * step and T*I from row to row. */
    const void *x; /* in  (T, B, I) */
    int64_t x_step, x_row;
    void *y; /* out (T, B, D*O), zeros past a row's end */
    int64_t y_step, y_row;

    /* States are contiguous. h_n and c_n may be h0 and c0; no other arrays may overlap what is written. */
    const void *h0, *c0; /* in  (L*D, B, O), (L*D, B, has_c*H); both NULL: zeros, or the learnt initial state */
    void *h_n, *c_n;     /* out (L*D, B, O), (L*D, B, has_c*H); NULL: not wanted */

    const int64_t *lengths; /* in  (B), each in 0..T; NULL: all T */
    const uint8_t *resets;  /* in  (T, B), 1 where no state crosses from the step before into this one; or NULL */
} FastRNN_Run;

struct _object; /* PyObject */

typedef struct {
    int32_t abi;     /* FASTRNN_ABI of the fastrnn that runs */
    int32_t version; /* its FASTRNN_API_VERSION */
    size_t size;     /* of its table */

    /* What was wrong with the calling thread's last call that failed; valid until its next one fails. */
    const char *(*message)(void);
    /* The number of threads that 0 stands for in this thread: fastrnn.get_num_threads(). */
    int (*num_threads)(void);

    /* ---- Layers ---- */

    /* The layer of a fastrnn.Frozen, which layer.freeze() gives: of any kind, stack and precision. The caller owns it.
     * Needs the GIL; NULL with a Python exception if it is no such object. */
    FastRNN_Layer *(*layer_from_object)(struct _object *frozen);
    /* A layer made of arrays, which are copied: `count` weights, L*D, of layer after layer and both directions of each.
     * The caller owns it. */
    FastRNN_Layer *(*layer_new)(const FastRNN_LayerSpec *spec, const FastRNN_Weights *weights, int64_t count);
    /* One owner more; returns the layer. */
    FastRNN_Layer *(*layer_keep)(FastRNN_Layer *layer);
    /* One owner less; the last one frees it. NULL is ignored. */
    void (*layer_release)(FastRNN_Layer *layer);
    int (*layer_info)(const FastRNN_Layer *layer, FastRNN_LayerInfo *info);
    /* Run sequences through all layers. It is not stopped by signals such as that of Ctrl-C. A long sequence may be run
     * in parts, each from the state that the last one left, with the same results to the bit, if it runs forwards only.
     */
    int (*layer_run)(const FastRNN_Layer *layer, const FastRNN_Run *run);

    /* ---- Streams ---- */

    /* A stream of B sequences, at their start. It takes at most so many threads for a step, or with 0 as many as calls
     * of Python may use now. */
    FastRNN_Stream *(*stream_new)(FastRNN_Layer *layer, int64_t B, int threads);
    /* NULL is ignored. No other thread may be using the stream. */
    void (*stream_free)(FastRNN_Stream *stream);
    /* Advance the n sequences `rows`, which are distinct, by a step: x (n, I) -> y (n, O), contiguous and apart. With
     * rows NULL all advance, and n is B. Sizes are in bytes. */
    int (*stream_step)(FastRNN_Stream *stream, int64_t n, const int64_t *rows, const void *x, size_t x_bytes, void *y,
                       size_t y_bytes);
    /* Set n rows to the start of a sequence; with rows NULL all, and n is B. */
    int (*stream_reset)(FastRNN_Stream *stream, int64_t n, const int64_t *rows);
    /* Copy the state: h (L, B, O), and c (L, B, has_c*H), which is NULL, of 0 bytes, unless the layer has one. */
    int (*stream_get_state)(FastRNN_Stream *stream, void *h, size_t h_bytes, void *c, size_t c_bytes);
    int (*stream_set_state)(FastRNN_Stream *stream, const void *h, size_t h_bytes, const void *c, size_t c_bytes);
} FastRNN_API;

#ifdef Py_PYTHON_H /* include Python.h first */
/* The table, which stays valid until the process ends. Needs the GIL; call it when your module is imported. NULL with
 * an ImportError if there is no fastrnn, or one that is older than this header or not compatible with it. */
static inline const FastRNN_API *FastRNN_Import(void) {
    const FastRNN_API *api = (const FastRNN_API *)PyCapsule_Import("fastrnn._C_API", 0);
    if (!api) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError))
            PyErr_SetString(PyExc_ImportError,
                            "fastrnn: the installed version has no C interface; install a newer one");
        return NULL;
    }
    if (api->abi != FASTRNN_ABI) {
        PyErr_Format(PyExc_ImportError,
                     "fastrnn: this module was built for the ABI %d of its C interface, and the installed version has "
                     "the ABI %d; build the module again",
                     FASTRNN_ABI, (int)api->abi);
        return NULL;
    }
    if (api->version < FASTRNN_API_VERSION || api->size < sizeof(FastRNN_API)) {
        PyErr_Format(PyExc_ImportError,
                     "fastrnn: this module was built for version %d of its C interface, and the installed one has "
                     "version %d; install a newer fastrnn",
                     FASTRNN_API_VERSION, (int)api->version);
        return NULL;
    }
    return api;
}
#endif

#ifdef __cplusplus
}
#endif

#endif
