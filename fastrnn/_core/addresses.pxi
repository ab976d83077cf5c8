# Memory of others, given by its addresses: PyTorch's tensors. Whoever calls has checked what lies there.


def holds(list addresses, list arrays):
    """Whether the memory at each address has the same bytes as the C-contiguous array at its place in `arrays`."""
    cdef Py_ssize_t k
    cdef const void *theirs
    cdef const void *ours
    cdef size_t size
    cdef int differs
    for k in range(len(arrays)):
        theirs, ours = <const void *> <uintptr_t> addresses[k], cnp.PyArray_DATA(arrays[k])
        size = cnp.PyArray_NBYTES(arrays[k])
        with nogil:
            differs = memcmp(theirs, ours, size)
        if differs:
            return False
    return True


cdef class NativeFrame:
    """One step of one sequence through a stack of unidirectional cells. Any number of threads may call it at once."""

    cdef list cells
    cdef bint has_c
    cdef int64_t size, between  # bytes of the workspace, and of what lies between two layers

    def __init__(self, list cells, bint has_c):
        cdef NativeCell cell
        cdef frnn_forward_args args
        cdef int64_t one
        self.cells, self.has_c, self.size, self.between = cells, has_c, 0, 0
        for cell in cells:
            step_of_one(&cell.c, &args)
            one = frnn_forward_workspace(&cell.c, &args, FRNN_MOST_THREADS)
            if one < 0:
                raise ValueError("hidden_size: expected a size that fits BLAS's integer, got a larger one")
            self.size = max(self.size, (one + 63) // 64 * 64)
            self.between = max(self.between, (cell.c.O * (4 if cell.c.dtype == FRNN_F32 else 8) + 63) // 64 * 64)

    def __call__(self, uintptr_t x, uintptr_t h0, uintptr_t c0, bint batched, int threads):
        """y (1, 1, O), h_n (L, 1, O) and, of cells that have c, c_n (L, 1, H); not batched: (1, O) and so on.

        Addresses of x (I,), and of h0 (L, O) and c0 (L, H), which are 0 for zeros.
        """
        cdef Py_ssize_t layer, last = len(self.cells) - 1
        cdef NativeCell cell = self.cells[0]
        cdef cnp.ndarray y = frame_array(1, cell.c.O, cell, batched, False)
        cdef cnp.ndarray h = frame_array(last + 1, cell.c.O, cell, batched, h0 == 0)
        cdef cnp.ndarray c = frame_array(last + 1, cell.c.H, cell, batched, c0 == 0) if self.has_c else None
        cdef char *h_n = <char *> cnp.PyArray_DATA(h)
        cdef char *c_n = <char *> cnp.PyArray_DATA(c) if self.has_c else NULL
        cdef const char *h_0 = <const char *> h0 if h0 else h_n
        cdef const char *c_0 = <const char *> c0 if c0 else c_n
        cdef Workspace workspace = Workspace()
        cdef frnn_forward_args args
        cdef const frnn_cell *pointer
        cdef char *between
        cdef int64_t itemsize = 4 if cell.c.dtype == FRNN_F32 else 8
        workspace.reserve(self.size + 2 * self.between)
        between = <char *> workspace.data + self.size
        for layer in range(last + 1):
            cell = self.cells[layer]
            pointer = &cell.c
            step_of_one(pointer, &args)
            args.x.data = <void *> x
            args.y.data = cnp.PyArray_DATA(y) if layer == last else <void *> (between + (layer & 1) * self.between)
            args.h0, args.h_n = h_0 + layer * pointer.O * itemsize, h_n + layer * pointer.O * itemsize
            if self.has_c:
                args.c0, args.c_n = c_0 + layer * pointer.H * itemsize, c_n + layer * pointer.H * itemsize
            with nogil:
                frnn_forward(1, &pointer, &args, threads, workspace.data)
            x = <uintptr_t> args.y.data
        return (y, h, c) if self.has_c else (y, h)


cdef cnp.ndarray frame_array(Py_ssize_t rows, int64_t size, NativeCell cell, bint batched, bint zeros):
    """A new array (rows, 1, size), or (rows, size) if not batched."""
    cdef cnp.npy_intp dims[3]
    cdef int kind = cnp.NPY_FLOAT32 if cell.c.dtype == FRNN_F32 else cnp.NPY_FLOAT64
    dims[0], dims[1], dims[2] = rows, 1, size
    if not batched:
        dims[1] = size
    return cnp.PyArray_ZEROS(2 + batched, dims, kind, 0) if zeros else cnp.PyArray_EMPTY(2 + batched, dims, kind, 0)


cdef void step_of_one(const frnn_cell *cell, frnn_forward_args *args) noexcept:
    """The arguments of a step of one row, without addresses."""
    memset(args, 0, sizeof(args[0]))
    args.steps.T = args.steps.B = 1
    args.x.stride_t = args.x.stride_b = cell.I
    args.y.stride_t = args.y.stride_b = cell.O
