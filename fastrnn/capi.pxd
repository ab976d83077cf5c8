# fastrnn's C interface for Cython; fastrnn/include/fastrnn/capi.h says what each part is.
#
#     from fastrnn.capi cimport FastRNN_API, FastRNN_Import
#     cdef const FastRNN_API *api = FastRNN_Import()
#
# The C compiler finds the header in fastrnn.get_include().

from libc.stdint cimport int32_t, int64_t, uint8_t

cdef extern from "fastrnn/capi.h":
    int FASTRNN_ABI, FASTRNN_API_VERSION
    int FASTRNN_OK, FASTRNN_INVALID, FASTRNN_NO_MEMORY, FASTRNN_BUSY
    int FASTRNN_FLOAT32, FASTRNN_FLOAT64
    int FASTRNN_NORM_NONE, FASTRNN_NORM_SEPARATE, FASTRNN_NORM_SUM

    ctypedef struct FastRNN_Layer:
        pass

    ctypedef struct FastRNN_Stream:
        pass

    ctypedef struct FastRNN_LayerInfo:
        size_t size
        const char *cell
        int32_t dtype, num_layers, num_directions, reverse, has_c, has_initial_state
        int64_t input_size, hidden_size, state_size, output_size

    ctypedef struct FastRNN_LayerSpec:
        size_t size
        const char *cell
        int32_t dtype, num_layers, num_directions, reverse, update_replaces, threads
        int64_t input_size, hidden_size, proj_size, num_heads
        int32_t linear, layer_norm
        double layer_norm_eps, clip, zoneout, zoneout_cell

    ctypedef struct FastRNN_Weights:
        const void *weight_ih
        const void *weight_hh
        const void *bias_ih
        const void *bias_hh
        const void *weight_hr
        const void *peephole
        const void *norm_ih
        const void *norm_hh
        const void *norm
        const void *norm_c
        const void *bias_c

    ctypedef struct FastRNN_Run:
        size_t size
        int32_t dtype, threads
        int64_t T, B, input_size, output_size
        const void *x
        int64_t x_step, x_row
        void *y
        int64_t y_step, y_row
        const void *h0
        const void *c0
        void *h_n
        void *c_n
        const int64_t *lengths
        const uint8_t *resets

    ctypedef struct FastRNN_API:
        int32_t abi, version
        size_t size
        const char *(*message)() noexcept nogil
        int (*num_threads)() noexcept nogil
        FastRNN_Layer *(*layer_from_object)(object frozen) except NULL
        FastRNN_Layer *(*layer_new)(
            const FastRNN_LayerSpec *spec, const FastRNN_Weights *weights, int64_t count
        ) noexcept nogil
        FastRNN_Layer *(*layer_keep)(FastRNN_Layer *layer) noexcept nogil
        void (*layer_release)(FastRNN_Layer *layer) noexcept nogil
        int (*layer_info)(const FastRNN_Layer *layer, FastRNN_LayerInfo *info) noexcept nogil
        int (*layer_run)(const FastRNN_Layer *layer, const FastRNN_Run *run) noexcept nogil
        FastRNN_Stream *(*stream_new)(FastRNN_Layer *layer, int64_t B, int threads) noexcept nogil
        void (*stream_free)(FastRNN_Stream *stream) noexcept nogil
        int (*stream_step)(
            FastRNN_Stream *stream, int64_t n, const int64_t *rows, const void *x, size_t x_bytes, void *y,
            size_t y_bytes
        ) noexcept nogil
        int (*stream_reset)(FastRNN_Stream *stream, int64_t n, const int64_t *rows) noexcept nogil
        int (*stream_get_state)(
            FastRNN_Stream *stream, void *h, size_t h_bytes, void *c, size_t c_bytes
        ) noexcept nogil
        int (*stream_set_state)(
            FastRNN_Stream *stream, const void *h, size_t h_bytes, const void *c, size_t c_bytes
        ) noexcept nogil

    const FastRNN_API *FastRNN_Import() except NULL
