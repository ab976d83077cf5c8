# csrc/training/optimizers.h for Python.

cdef extern from "training/optimizers.h" nogil:
    ctypedef struct frnn_sgd:
        double scale, lr, momentum, weight_decay
        int nesterov

    ctypedef struct frnn_adam:
        double scale, lr, beta1, beta2, eps, keep

    ctypedef struct frnn_update:
        frnn_dtype dtype
        int64_t n
        void *p
        void *moment[2]
        const void *g
        const int64_t *ids
        int64_t rows, columns
        int only_rows

    void frnn_sgd_step(const frnn_sgd *rule, int64_t count, const frnn_update *updates, int threads)
    void frnn_adam_step(const frnn_adam *rule, int64_t count, const frnn_update *updates, int threads)

    ctypedef struct frnn_values:
        frnn_dtype dtype
        int64_t n
        const void *data

    double frnn_squares(int64_t count, const frnn_values *arrays, int threads, double *work)
    int64_t frnn_squares_blocks(int64_t count, const frnn_values *arrays)


cdef Workspace unpack_updates(list updates):
    """An array of frnn_update from a list of `fastrnn.engines.operations.Update`."""
    cdef Workspace room = Workspace()
    cdef Py_ssize_t k
    cdef frnn_update *u
    cdef cnp.ndarray p, g, ids
    room.reserve(len(updates) * sizeof(frnn_update))
    for k in range(len(updates)):
        p, g, moments, ids, only_rows = updates[k]
        u = (<frnn_update *> room.data) + k
        u.dtype, u.n, u.p, u.g = dtype_of(p), cnp.PyArray_SIZE(p), address(p), address(g)
        u.moment[0] = address(moments[0]) if len(moments) > 0 else NULL
        u.moment[1] = address(moments[1]) if len(moments) > 1 else NULL
        u.ids, u.only_rows = <const int64_t *> address(ids), only_rows
        if ids is not None:
            u.rows, u.columns = cnp.PyArray_DIM(g, 0), cnp.PyArray_DIM(g, 1)
        else:
            u.rows = u.columns = 0
    return room


def sgd_step(list updates, double scale, double lr, double momentum, bint nesterov, double weight_decay):
    """`fastrnn.engines.operations.Operations.sgd_step`."""
    cdef Workspace room = unpack_updates(updates)
    cdef int64_t count = len(updates)
    cdef int threads = allowed_threads()
    cdef frnn_sgd rule
    rule.scale, rule.lr, rule.momentum, rule.weight_decay, rule.nesterov = scale, lr, momentum, weight_decay, nesterov
    with nogil:
        frnn_sgd_step(&rule, count, <const frnn_update *> room.data, threads)


def adam_step(list updates, double scale, double lr, double beta1, double beta2, double eps, double keep):
    """`fastrnn.engines.operations.Operations.adam_step`."""
    cdef Workspace room = unpack_updates(updates)
    cdef int64_t count = len(updates)
    cdef int threads = allowed_threads()
    cdef frnn_adam rule
    rule.scale, rule.lr, rule.beta1, rule.beta2, rule.eps, rule.keep = scale, lr, beta1, beta2, eps, keep
    with nogil:
        frnn_adam_step(&rule, count, <const frnn_update *> room.data, threads)


def squares(list arrays):
    """`fastrnn.engines.operations.Operations.squares`."""
    cdef Workspace room = Workspace()
    cdef Workspace sums = Workspace()
    cdef int64_t count = len(arrays)
    cdef int threads = allowed_threads()
    cdef frnn_values *values
    cdef cnp.ndarray a
    cdef Py_ssize_t k
    cdef double result
    room.reserve(count * sizeof(frnn_values))
    values = <frnn_values *> room.data
    for k in range(count):
        a = arrays[k]
        values[k].dtype, values[k].n, values[k].data = dtype_of(a), cnp.PyArray_SIZE(a), address(a)
    sums.reserve(frnn_squares_blocks(count, values) * sizeof(double))
    with nogil:
        result = frnn_squares(count, values, threads, <double *> sums.data)
    return result
