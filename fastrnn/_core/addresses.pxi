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
    cdef int64_t size, between  # bytes of the workspace, and of what lies between two layers

    def __init__(self, list cells):
        cdef NativeCell cell
        cdef frnn_forward_args args
        cdef int64_t one
        self.cells, self.size, self.between = cells, 0, 0
        for cell in cells:
            step_of_one(&cell.c, &args)
            one = frnn_forward_workspace(&cell.c, &args)
            if one < 0:
                raise ValueError("hidden_size: expected a size that fits BLAS's integer, got a larger one")
            self.size = max(self.size, (one + 63) // 64 * 64)
            self.between = max(self.between, (cell.c.O * (4 if cell.c.dtype == FRNN_F32 else 8) + 63) // 64 * 64)

    def __call__(self, uintptr_t x, uintptr_t y, uintptr_t h, uintptr_t c):
        """Addresses of x (I,), y (O,), which is written to, h (L, O) and c (L, H), which advance; c is 0 without one."""
        cdef Py_ssize_t layer, last = len(self.cells) - 1
        cdef Workspace workspace = Workspace()
        cdef frnn_forward_args args
        cdef const frnn_cell *pointer
        cdef NativeCell cell
        cdef char *between
        cdef int64_t itemsize
        workspace.reserve(self.size + 2 * self.between)
        between = <char *> workspace.data + self.size
        for layer in range(last + 1):
            cell = self.cells[layer]
            pointer, itemsize = &cell.c, 4 if cell.c.dtype == FRNN_F32 else 8
            step_of_one(pointer, &args)
            args.x.data = <void *> x
            args.y.data = <void *> y if layer == last else <void *> (between + (layer & 1) * self.between)
            args.h0 = args.h_n = <void *> (h + layer * pointer.O * itemsize)
            args.c0 = args.c_n = NULL if c == 0 else <void *> (c + layer * pointer.H * itemsize)
            with nogil:
                frnn_forward(1, &pointer, &args, 1, workspace.data)
            x = <uintptr_t> args.y.data


cdef void step_of_one(const frnn_cell *cell, frnn_forward_args *args) noexcept:
    """The arguments of a step of one row, without addresses."""
    memset(args, 0, sizeof(args[0]))
    args.steps.T = args.steps.B = 1
    args.x.stride_t = args.x.stride_b = cell.I
    args.y.stride_t = args.y.stride_b = cell.O
