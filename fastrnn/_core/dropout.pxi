# Dropout: csrc/training/dropout.h.
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "training/dropout.h" nogil:
    void frnn_dropout(frnn_dtype, int64_t first, int64_t n, const void *x, uint64_t key, uint32_t threshold,
                      double scale, int threads, void *y)


def dropout(
    cnp.ndarray x not None, uint64_t key, uint32_t threshold, double scale, cnp.ndarray y not None, int64_t first
):
    """y[...] = scale*x where the random word of an element, a function of key and place, is at least the threshold.

    The first element's place is `first`.
    """
    cdef int64_t n = cnp.PyArray_SIZE(x)
    cdef int threads = allowed_threads()
    cdef frnn_dtype dtype = dtype_of(x)
    cdef const void *read = cnp.PyArray_DATA(x)
    cdef void *written = cnp.PyArray_DATA(y)
    with nogil:
        frnn_dropout(dtype, first, n, read, key, threshold, scale, threads, written)
