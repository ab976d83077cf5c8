# The headers of csrc/, as Cython needs them.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "fastrnn.h" nogil:
    ctypedef enum frnn_dtype:
        FRNN_F32
        FRNN_F64

    ctypedef enum frnn_storage:
        FRNN_STORED_F32
        FRNN_STORED_F64
        FRNN_STORED_BF16
        FRNN_STORED_INT8

    int frnn_kind(const char *name)

    ctypedef struct frnn_norm:
        const void *ih
        const void *hh
        const void *sum
        const void *c
        const void *bias_c
        double eps

    ctypedef struct frnn_cell:
        int kind
        frnn_dtype dtype
        frnn_storage storage
        int replace
        int64_t I, H, O
        const void *w_ih
        const void *w_hh
        const void *b_ih
        const void *b_hh
        const void *w_hr
        const void *peephole
        const float *s_ih
        const float *s_hh
        const float *s_hr
        double zoneout, zoneout_cell
        const void *packed
        frnn_norm norm
        int heads
        int linear
        double clip

    ctypedef enum frnn_pass:
        FRNN_FORWARD
        FRNN_BACKWARD

    ctypedef struct frnn_cell_gradient:
        void *w_ih
        void *w_hh
        void *b_ih
        void *b_hh
        void *w_hr
        void *peephole
        void *norm_ih
        void *norm_hh
        void *norm_sum
        void *norm_c
        void *bias_c

    ctypedef struct frnn_steps:
        int64_t T, B
        const int64_t *lengths
        const int64_t *order
        const uint8_t *resets
        int reverse
        const int64_t *starts

    ctypedef struct frnn_series:
        void *data
        int64_t stride_t, stride_b

    ctypedef struct frnn_record:
        void *gates
        void *cells
        void *norms
        void *fresh

    ctypedef struct frnn_noise:
        uint64_t key
        uint32_t zoneout, zoneout_cell, candidate
        double candidate_scale
        const void *state
        int64_t first_step
        const int64_t *rows

    ctypedef struct frnn_forward_args:
        frnn_steps steps
        frnn_series x
        const void *h0
        const void *c0
        frnn_series y
        void *h_n
        void *c_n
        frnn_record record
        const int64_t *rows
        const frnn_noise *noise

    ctypedef struct frnn_backward_args:
        frnn_steps steps
        frnn_series x, y
        const void *h0
        const void *c0
        frnn_record record
        frnn_series dy
        const void *dh_n
        const void *dc_n
        int adds_to_dx
        frnn_series dx
        void *dh0
        void *dc0
        frnn_cell_gradient dcell
        const frnn_noise *noise
        int adds_to_dcell

    int64_t frnn_forward_workspace(const frnn_cell *, const frnn_forward_args *, int threads)
    int64_t frnn_backward_workspace(int count, const frnn_cell **cells, const frnn_backward_args *, int threads)
    void frnn_forward(int count, const frnn_cell **cells, const frnn_forward_args *, int threads, void *workspace)
    void frnn_backward(int count, const frnn_cell **cells, const frnn_backward_args *, int threads, void *workspace)
    int64_t frnn_backward_steps(const frnn_cell *, int64_t B)
    int64_t frnn_pack_bytes(const frnn_cell *, frnn_pass)
    void frnn_pack(const frnn_cell *, frnn_pass, int threads, void *packed)
    void frnn_blas_install(void *sgemm, void *dgemm, void *sgemv, void *dgemv, int integer_bytes,
                           void *set_threads, void *get_threads)
    void frnn_blas_after_fork()

    const char *frnn_isa_name(int index)
    int frnn_isa_select(const char *name)
    const char *frnn_isa_selected()
    ctypedef enum frnn_verdict:
        FRNN_GO_ON
        FRNN_STOP
        FRNN_ORPHANED
    void frnn_stop_install(frnn_verdict (*hook)() noexcept nogil)
    int frnn_has_threads()
    const char *frnn_threading_name(int index)
    int frnn_threading_select(const char *name)
    const char *frnn_threading_selected()
    enum: FRNN_MOST_THREADS

cdef extern from "hooks.h" nogil:
    void frnn_tanh(frnn_dtype, int64_t n, const void *x, void *y)
    void frnn_sigmoid(frnn_dtype, int64_t n, const void *x, void *y)
    void frnn_log_sigmoid(frnn_dtype, int64_t n, const void *x, void *y)
    void frnn_blas_gemm(frnn_dtype, int ta, int tb, int64_t M, int64_t N, int64_t K, const void *A, int64_t lda,
                        const void *B, int64_t ldb, double beta, void *C, int64_t ldc)
    ctypedef enum frnn_split:
        FRNN_CHOOSE, FRNN_BY_ROWS, FRNN_BY_UNITS
    void frnn_team_insist(frnn_split)
    double frnn_simulate_plan(const char *cell, frnn_dtype, frnn_pass, int64_t T, int64_t B, int64_t I, int64_t H,
                              int directions, int lanes, int threads, int *members, frnn_split *split)
    int64_t frnn_probe_multiply_add(int bytes, int64_t repeats, double *result)
    int64_t frnn_probe_read(frnn_dtype, const void *data, int64_t bytes, int64_t repeats, double *result)
    int64_t frnn_direct_lanes(frnn_dtype)
    void frnn_direct_pack(frnn_dtype, int transposed, int64_t K, int64_t columns, const void *weights, int64_t ld,
                          void *packed, int64_t stride)
    void frnn_direct_pack_row(frnn_dtype, int64_t n, const void *row, void *packed, int64_t stride, int64_t at)
    void frnn_direct_multiply(frnn_dtype, int64_t rows, int64_t columns, int64_t K, const void *A, int64_t a_row,
                              int64_t a_vector, const void *R, int64_t stride, int beta, void *C, int64_t ldc,
                              int descending)
    void frnn_direct_add_gradient(frnn_dtype, int64_t rows, int64_t columns, int64_t K, const void *A,
                                  int64_t a_vector, const void *R, int64_t stride, void *C, int64_t ldc)
    void frnn_direct_add_columns(frnn_dtype, int64_t rows, int64_t n, const void *packed, int64_t stride, void *sum)
    int64_t frnn_direct_narrow_work(frnn_storage, int64_t rows, int64_t columns, int64_t K)
    void frnn_direct_multiply_narrow(frnn_storage, int64_t rows, int64_t columns, int64_t K, const float *A,
                                     int64_t a_row, const void *weights, const float *scales, void *work, int beta,
                                     float *C, int64_t ldc, int descending)

cdef extern from "kept.h" nogil:
    void *frnn_kept_take(int64_t size, int64_t *actual)
    void frnn_kept_give(void *data, int64_t size)
    int64_t frnn_kept_most
    enum: FRNN_KEPT_LEAST
    void *frnn_shared_new(int64_t size)
    void frnn_shared_disown(void *data)

cdef extern from "sequence/stack.h" nogil:
    ctypedef struct frnn_stack:
        int layers, directions
        int reverse[2]
        const frnn_cell *const *cells

    ctypedef struct frnn_stack_args:
        frnn_steps steps
        frnn_series x
        frnn_series y
        void *h
        void *c
        int64_t S
        const int64_t *rows

    int64_t frnn_stack_workspace(const frnn_stack *, const frnn_stack_args *, int threads)
    void frnn_stack_run(const frnn_stack *, const frnn_stack_args *, int threads, void *workspace)
    bint frnn_distinct_rows(int64_t n, const int64_t *rows, int64_t B, int64_t turn, int64_t *last, int64_t *own)

cdef extern from "interface/interface.h" nogil:
    ctypedef struct FastRNN_API
    ctypedef struct FastRNN_Layer
    ctypedef struct PyObject "struct _object"
    ctypedef struct frnn_python:
        int (*num_threads)() noexcept
        FastRNN_Layer *(*layer_from_object)(PyObject *frozen) noexcept

    const FastRNN_API *frnn_interface(frnn_python)
    FastRNN_Layer *frnn_layer_new(const frnn_stack *, const void *initial_h, const void *initial_c)
    bint frnn_interface_runs()
