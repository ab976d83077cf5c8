"""Attention: see csrc/training/attention.h. Arrays (U, B, .) and (S, B, .) need only have contiguous rows."""

cdef extern from "training/attention.h" nogil:
    ctypedef struct frnn_attention_args:
        frnn_dtype dtype
        int64_t U, S, B, Q, M
        const int64_t *lengths
        frnn_series queries, keys, values, joined
        void *weights
        frnn_series dqueries, dkeys, dvalues

    void frnn_attend(const frnn_attention_args *, int threads)
    int64_t frnn_attend_backward_workspace(const frnn_attention_args *, int threads)
    void frnn_attend_backward(const frnn_attention_args *, int threads, void *workspace)


cdef frnn_attention_args attention_args(
    cnp.ndarray queries, cnp.ndarray keys, cnp.ndarray values, cnp.ndarray lengths, cnp.ndarray joined,
    cnp.ndarray weights,
):
    cdef frnn_attention_args args
    args.dtype = dtype_of(queries)
    args.U, args.B, args.Q = cnp.PyArray_DIM(queries, 0), cnp.PyArray_DIM(queries, 1), cnp.PyArray_DIM(queries, 2)
    args.S, args.M = cnp.PyArray_DIM(values, 0), cnp.PyArray_DIM(values, 2)
    args.lengths, args.weights = <const int64_t *> address(lengths), cnp.PyArray_DATA(weights)
    args.queries, args.keys, args.values, args.joined = series(queries), series(keys), series(values), series(joined)
    return args


def attend(
    cnp.ndarray queries not None, cnp.ndarray keys not None, cnp.ndarray values not None, cnp.ndarray lengths,
    cnp.ndarray joined not None, cnp.ndarray weights not None,
):
    """Write weights (B, U, S), and joined (U, B, M + Q): what is read, and the queries."""
    cdef frnn_attention_args args = attention_args(queries, keys, values, lengths, joined, weights)
    cdef int threads = allowed_threads()
    with nogil:
        frnn_attend(&args, threads)


def attend_backward(
    cnp.ndarray queries not None, cnp.ndarray keys not None, cnp.ndarray values not None, cnp.ndarray lengths,
    cnp.ndarray weights not None, cnp.ndarray djoined not None, cnp.ndarray dqueries not None,
    cnp.ndarray dkeys not None, cnp.ndarray dvalues not None,
):
    """Write the gradients of queries, keys and values."""
    cdef int64_t U = cnp.PyArray_DIM(djoined, 0), B = cnp.PyArray_DIM(djoined, 1), S = cnp.PyArray_DIM(dkeys, 0)
    cdef int64_t Q = cnp.PyArray_DIM(dqueries, 2), M = cnp.PyArray_DIM(djoined, 2) - Q
    expect(queries, djoined, 3, U, B, Q)
    expect(keys, djoined, 3, S, B, Q)
    expect(values, djoined, 3, S, B, M)
    expect(weights, djoined, 3, B, U, S)
    cdef frnn_attention_args args = attention_args(queries, keys, values, lengths, djoined, weights)
    args.dqueries, args.dkeys, args.dvalues = series(dqueries), series(dkeys), series(dvalues)
    cdef int threads = allowed_threads()
    cdef Workspace workspace = Workspace()
    workspace.reserve(frnn_attend_backward_workspace(&args, threads))
    with nogil:
        frnn_attend_backward(&args, threads, workspace.data)
