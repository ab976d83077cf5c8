"""Linear layers, and softmax with cross-entropy on them: see csrc/training/."""

cdef extern from "training/products.h" nogil:
    int64_t frnn_linear_workspace(frnn_dtype, int64_t N, int64_t I, int64_t O, int threads)
    void frnn_linear(frnn_dtype, int64_t N, int64_t I, int64_t O, const void *x, const void *weight, const void *bias,
                     void *y, int threads, void *workspace)
    int64_t frnn_linear_pack_bytes(frnn_storage, int64_t I, int64_t O)
    void frnn_linear_pack(frnn_storage, int64_t I, int64_t O, const void *weight, const float *scales, int threads,
                          void *packed)
    int64_t frnn_linear_packed_workspace(frnn_storage, int64_t N, int64_t I)
    void frnn_linear_packed(frnn_storage, int64_t N, int64_t I, int64_t O, const void *x, const void *packed,
                            const void *bias, void *y, int threads, void *workspace)
    int64_t frnn_linear_backward_workspace(frnn_dtype, int64_t N, int64_t I, int64_t O, int threads)
    void frnn_linear_backward(frnn_dtype, int64_t N, int64_t I, int64_t O, const void *x, const void *weight,
                              const void *dy, void *dx, void *dweight, void *dbias, int threads, void *workspace)

cdef extern from "training/softmax.h" nogil:
    ctypedef struct frnn_cross_entropy_args:
        frnn_dtype dtype
        int64_t N, I, V
        const void *x
        const void *weight
        const void *bias
        const int64_t *targets
        const double *shares
        double *losses
        void *dx
        void *dweight
        void *dbias

    int64_t frnn_cross_entropy_workspace(const frnn_cross_entropy_args *, int threads)
    void frnn_cross_entropy(const frnn_cross_entropy_args *, int threads, void *workspace)


def linear(cnp.ndarray x not None, cnp.ndarray weight not None, cnp.ndarray bias, cnp.ndarray y not None):
    """y (N, O) = x W^T + b."""
    cdef frnn_dtype dtype = dtype_of(x)
    cdef int64_t N = cnp.PyArray_DIM(x, 0), I = cnp.PyArray_DIM(weight, 1), O = cnp.PyArray_DIM(weight, 0)
    cdef void *px = cnp.PyArray_DATA(x)
    cdef void *pw = cnp.PyArray_DATA(weight)
    cdef void *pb = address(bias)
    cdef void *py = cnp.PyArray_DATA(y)
    cdef int threads = allowed_threads()
    cdef Workspace workspace = Workspace()
    workspace.reserve(frnn_linear_workspace(dtype, N, I, O, threads))
    with nogil:
        frnn_linear(dtype, N, I, O, px, pw, pb, py, threads, workspace.data)
    raise_pending()


def linear_backward(
    cnp.ndarray x not None, cnp.ndarray weight not None, cnp.ndarray dy not None, cnp.ndarray dx,
    cnp.ndarray dweight not None, cnp.ndarray dbias,
):
    """dx = dy W, unless it is None, dweight = dy^T x, and dbias, the sums over rows, unless it is None."""
    expect(x, dy, 2, cnp.PyArray_DIM(dy, 0), cnp.PyArray_DIM(dweight, 1), 0)
    expect(weight, dy, 2, cnp.PyArray_DIM(dy, 1), cnp.PyArray_DIM(dweight, 1), 0)
    cdef frnn_dtype dtype = dtype_of(x)
    cdef int64_t N = cnp.PyArray_DIM(x, 0), I = cnp.PyArray_DIM(weight, 1), O = cnp.PyArray_DIM(weight, 0)
    cdef void *px = cnp.PyArray_DATA(x)
    cdef void *pw = cnp.PyArray_DATA(weight)
    cdef void *pdy = cnp.PyArray_DATA(dy)
    cdef void *pdx = address(dx)
    cdef void *pdw = cnp.PyArray_DATA(dweight)
    cdef void *pdb = address(dbias)
    cdef int threads = allowed_threads()
    cdef Workspace workspace = Workspace()
    workspace.reserve(frnn_linear_backward_workspace(dtype, N, I, O, threads))
    with nogil:
        frnn_linear_backward(dtype, N, I, O, px, pw, pdy, pdx, pdw, pdb, threads, workspace.data)
    raise_pending()


def cross_entropy(
    cnp.ndarray x not None, cnp.ndarray weight not None, cnp.ndarray bias, cnp.ndarray targets not None,
    cnp.ndarray shares not None, cnp.ndarray losses not None, cnp.ndarray dx, cnp.ndarray dweight, cnp.ndarray dbias,
):
    """Each row's cross-entropy of x W^T + b; and, unless they are None, the gradients of the sum of shares*losses."""
    cdef frnn_cross_entropy_args args
    cdef int threads = allowed_threads()
    args.dtype = dtype_of(x)
    args.N, args.I, args.V = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(weight, 1), cnp.PyArray_DIM(weight, 0)
    args.x, args.weight, args.bias = cnp.PyArray_DATA(x), cnp.PyArray_DATA(weight), address(bias)
    args.targets = <const int64_t *> cnp.PyArray_DATA(targets)
    args.shares, args.losses = <const double *> cnp.PyArray_DATA(shares), <double *> cnp.PyArray_DATA(losses)
    args.dx, args.dweight, args.dbias = address(dx), address(dweight), address(dbias)
    cdef Workspace workspace = Workspace()
    workspace.reserve(frnn_cross_entropy_workspace(&args, threads))
    with nogil:
        frnn_cross_entropy(&args, threads, workspace.data)
    raise_pending()


cdef class PackedLinear:
    """A linear layer's weights (O, I), an array or narrow, and bias, packed: for many calls with few rows each."""

    cdef frnn_storage storage
    cdef int64_t I, O
    cdef object bias
    cdef Workspace packed

    def __init__(self, weight not None, cnp.ndarray bias):
        cdef int threads = allowed_threads()
        cdef void *pointer
        cdef const float *scales
        pointer, scales = matrix(weight)
        self.storage = storage_of(weight, FRNN_F32 if isinstance(weight, Narrow) else dtype_of(weight))
        self.bias = bias
        self.O, self.I = weight.shape
        self.packed = Workspace()
        self.packed.reserve(frnn_linear_pack_bytes(self.storage, self.I, self.O))
        with nogil:
            frnn_linear_pack(self.storage, self.I, self.O, pointer, scales, threads, self.packed.data)

    def __call__(self, cnp.ndarray x not None, cnp.ndarray y not None):
        """y (N, O) = x W^T + b."""
        cdef int64_t N = cnp.PyArray_DIM(x, 0)
        cdef int threads = allowed_threads()
        cdef void *px = cnp.PyArray_DATA(x)
        cdef void *pb = address(self.bias)
        cdef void *py = cnp.PyArray_DATA(y)
        cdef Workspace workspace = None
        cdef void *room = NULL
        cdef int64_t size = frnn_linear_packed_workspace(self.storage, N, self.I)
        if size > 0:
            workspace = Workspace()
            workspace.reserve(size)
            room = workspace.data
        with nogil:
            frnn_linear_packed(self.storage, N, self.I, self.O, px, self.packed.data, pb, py, threads, room)
        raise_pending()
