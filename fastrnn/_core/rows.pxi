# csrc/training/rows.h for Python.

cdef extern from "training/rows.h" nogil:
    int64_t frnn_sort_ids(
        int64_t N, const int64_t *ids, int64_t largest, int64_t *places, int64_t *starts, int64_t *work
    )
    void frnn_sum_rows(
        frnn_dtype dtype, int64_t count, int64_t columns, const int64_t *places, const int64_t *starts,
        const void *values, void *sums, int threads
    )


def sum_rows(cnp.ndarray ids not None, int64_t largest, cnp.ndarray values not None):
    """`fastrnn.engines.operations.Operations.sum_rows`, of int64 ids."""
    cdef int64_t N = cnp.PyArray_SIZE(ids), columns = cnp.PyArray_DIM(values, 1), count, k
    cdef const int64_t *id = <const int64_t *> address(ids)
    cdef const void *rows = address(values)
    cdef frnn_dtype dtype = dtype_of(values)
    cdef int threads = allowed_threads()
    cdef Workspace room = Workspace()
    room.reserve((3 * N + 1) * sizeof(int64_t))
    cdef int64_t *places = <int64_t *> room.data
    cdef int64_t *starts = places + N
    with nogil:
        count = frnn_sort_ids(N, id, largest, places, starts, starts + N + 1)
    cdef cnp.ndarray distinct = np.empty(count, np.int64)
    cdef cnp.ndarray sums = empty((count, columns), values.dtype)
    cdef int64_t *own = <int64_t *> address(distinct)
    cdef void *result = address(sums)
    with nogil:
        for k in range(count):
            own[k] = id[places[starts[k]]]
        frnn_sum_rows(dtype, count, columns, places, starts, rows, result, threads)
    return distinct, sums
