# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True, auto_pickle=False
"""The C code for Python: see csrc/fastrnn.h. Arrays are unpacked to pointers here and nowhere else."""

import numpy as np

cimport numpy as cnp
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.exc cimport PyErr_Occurred, PyErr_SetObject
from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint8_t, uintptr_t
from libc.string cimport memcmp, memset

from fastrnn._core.csrc cimport *
from fastrnn.engines.precision import BFloat16, Int8, Narrow

cnp.import_array()

# How many threads a call may use. C, so that a stream's step creates no object to ask.
cdef extern from *:
    """
    #include "compiler.h"
    static FRNN_THREAD_LOCAL int own_threads;
    static int process_threads = 1;

    /* For programs that limit the threads of all libraries, such as threadpoolctl: the module's only exported symbols
       besides its init function. A number out of range is replaced by the nearest one in range. */
    #ifdef _WIN32
    #define EXPORTED __declspec(dllexport)
    #else
    #define EXPORTED __attribute__((visibility("default")))
    #endif
    EXPORTED int fastrnn_get_num_threads(void) { return process_threads; }
    EXPORTED void fastrnn_set_num_threads(int n) {
        process_threads = n < 1 ? 1 : n > FRNN_MOST_THREADS ? FRNN_MOST_THREADS : n;
    }
    """
    int own_threads  # of the calling thread; 0: the process's
    int process_threads

MOST_THREADS = FRNN_MOST_THREADS


cdef inline int allowed_threads() noexcept:
    return own_threads if own_threads > 0 else process_threads


def get_threads():
    """How many threads a call from this thread may use."""
    return allowed_threads()


def set_threads(int n):
    """Set it for the process."""
    global process_threads
    process_threads = n


def set_own_threads(int n):
    """Set it for the calling thread, 0 for the process's; return what it was."""
    global own_threads
    before = own_threads
    own_threads = n
    return before


# A handler of signals may raise while C runs: KeyboardInterrupt, if the user presses Ctrl-C. C asks for that from time to
# time, leaves the rest of its work out, and then `raise_pending` is called.
cdef extern from *:
    """
    #ifdef _WIN32
    #define PROCESS() 0 /* no fork() */
    #else
    #include <unistd.h>
    #define PROCESS() getpid()
    #endif
    """
    long PROCESS()

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept  # an exception stays set
    void PyErr_SetString(object kind, const char *message) noexcept


cdef frnn_verdict check_signals() noexcept nogil:
    return FRNN_GO_ON if frnn_interface_runs() else ask_python()


cdef frnn_verdict ask_python() noexcept with gil:
    cdef long process = PROCESS()
    cdef bint raised = PyErr_CheckSignals() != 0
    if PROCESS() == process:
        return FRNN_STOP if raised else FRNN_GO_ON
    if not raised:
        PyErr_SetString(RuntimeError, "fastrnn: a signal's handler forked this process in the middle of a call, "
                                      "whose threads it does not have: the call cannot go on here")
    return FRNN_ORPHANED


frnn_stop_install(<frnn_verdict (*)() noexcept nogil> check_signals)


cdef inline int raise_pending() except -1:
    return -1 if PyErr_Occurred() else 0


cdef inline void *address(cnp.ndarray a) noexcept:
    return NULL if a is None else cnp.PyArray_DATA(a)


cdef int expect(cnp.ndarray a, cnp.ndarray like, int axes, int64_t n0, int64_t n1, int64_t n2) except -1:
    """An array of a tape may have been given another shape or dtype since it was checked."""
    if (
        cnp.PyArray_NDIM(a) != axes or cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(like)
        or cnp.PyArray_DIM(a, 0) != n0 or cnp.PyArray_DIM(a, 1) != n1
        or (axes == 3 and cnp.PyArray_DIM(a, 2) != n2)
    ):
        raise ValueError("tape: expected arrays as forward() left them, got one of another shape or dtype")
    return 0


cdef inline frnn_series series(cnp.ndarray a) noexcept:
    """A (T, B, n) array; null for None."""
    cdef frnn_series result
    cdef int64_t size
    if a is None:
        result.data, result.stride_t, result.stride_b = NULL, 0, 0
    else:
        size = cnp.PyArray_ITEMSIZE(a)
        result.data = cnp.PyArray_DATA(a)
        result.stride_t, result.stride_b = cnp.PyArray_STRIDE(a, 0) // size, cnp.PyArray_STRIDE(a, 1) // size
    return result


cdef inline frnn_steps unpack_steps(object steps, cnp.ndarray x):
    cdef frnn_steps result
    result.T, result.B = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1)
    result.lengths = <const int64_t *> address(steps.lengths)
    result.starts = <const int64_t *> address(steps.starts)
    if result.starts != NULL:
        result.T, result.B = len(steps.starts), len(steps.lengths)
    result.order = <const int64_t *> address(steps.order)
    result.resets = <const uint8_t *> address(steps.resets)
    result.reverse = steps.reverse
    return result


def keep_at_most(int64_t size):
    """So many bytes of memory that calls no longer use are kept for the next ones."""
    global frnn_kept_most
    frnn_kept_most = size


cdef extern from "Python.h":
    int PyTraceMalloc_Track(unsigned int domain, uintptr_t address, size_t size)
    int PyTraceMalloc_Untrack(unsigned int domain, uintptr_t address)

cdef enum:
    TRACED = 0x66726e6e  # tracemalloc's domain for kept blocks, which it would not see


cdef class Workspace:
    """64-byte aligned memory, uninitialised, that lives as long as this object; grows, and is kept, as calls need it."""

    cdef void *block
    cdef void *data
    cdef int64_t size

    cdef int reserve(self, int64_t size) except -1:
        if size < 0:
            raise ValueError("x, hidden_size: expected sizes that fit BLAS's integer, got larger ones")
        if size > self.size or self.block == NULL:
            self.release()
            if size >= FRNN_KEPT_LEAST:
                self.block = self.data = frnn_kept_take(size, &self.size)
            else:
                self.block = PyMem_RawMalloc(size + 64)
                self.size = size
                self.data = <void *> ((<uintptr_t> self.block + 63) & ~<uintptr_t> 63)
            if self.block == NULL:
                self.size = 0
                raise MemoryError(f"fastrnn: no room for {size} bytes")
            if size >= FRNN_KEPT_LEAST:
                PyTraceMalloc_Track(TRACED, <uintptr_t> self.block, size)
        return 0

    cdef void release(self) noexcept:
        if self.size >= FRNN_KEPT_LEAST:
            PyTraceMalloc_Untrack(TRACED, <uintptr_t> self.block)
            frnn_kept_give(self.block, self.size)
        else:
            PyMem_RawFree(self.block)
        self.block, self.size = NULL, 0

    def __dealloc__(self):
        self.release()


cdef enum:
    MOST_AXES = 4


def empty(shape, dtype):
    """As numpy.empty for floats, out of memory that earlier calls have used, if it is much."""
    cdef cnp.npy_intp dims[MOST_AXES]
    cdef int axis, axes = <int> len(shape)
    cdef cnp.dtype kind = dtype
    cdef double size = kind.itemsize  # not an integer, which could overflow
    if axes > MOST_AXES:
        raise ValueError(f"shape: expected at most {MOST_AXES} axes, got {axes}")
    for axis in range(axes):
        dims[axis] = shape[axis]
        size *= dims[axis]
    if not FRNN_KEPT_LEAST <= size <= frnn_kept_most:
        return np.empty(shape, dtype)
    cdef Workspace memory = Workspace()
    memory.reserve(<int64_t> size)
    cdef cnp.ndarray array = cnp.PyArray_SimpleNewFromData(axes, dims, kind.num, memory.data)
    cnp.set_array_base(array, memory)
    return array


def zeros(shape, dtype):
    """As `empty`, but zeros."""
    cdef cnp.ndarray array = empty(shape, dtype)
    memset(cnp.PyArray_DATA(array), 0, cnp.PyArray_NBYTES(array))
    return array


def view(uintptr_t data, shape, strides, dtype, owner):
    """An array over `owner`'s memory, which it keeps alive; strides in elements, None where it is contiguous."""
    cdef cnp.npy_intp dims[MOST_AXES]
    cdef cnp.npy_intp steps[MOST_AXES]
    cdef int axis, axes = <int> len(shape)
    cdef cnp.dtype kind = dtype
    if axes > MOST_AXES:
        raise ValueError(f"shape: expected at most {MOST_AXES} axes, got {axes}")
    for axis in range(axes):
        dims[axis] = shape[axis]
        if strides is not None:
            steps[axis] = <cnp.npy_intp> strides[axis] * kind.itemsize
    cdef cnp.ndarray array = cnp.PyArray_New(
        np.ndarray, axes, dims, kind.num, NULL if strides is None else steps, <void *> data, 0,
        cnp.NPY_ARRAY_WRITEABLE | cnp.NPY_ARRAY_ALIGNED, None,
    )
    cnp.set_array_base(array, owner)
    return array


cdef (void *, const float *) matrix(object a):
    """Addresses of a matrix of weights and of its rows' scales, null where there are none."""
    if isinstance(a, Int8):
        return address(a.values), <const float *> address(a.scales)
    return address(a.bits if isinstance(a, BFloat16) else a), <const float *> NULL


cdef frnn_storage storage_of(object a, frnn_dtype dtype):
    """How packed weights are stored that are made of a matrix for this dtype; not the array's own, which may change."""
    if isinstance(a, Narrow):
        return FRNN_STORED_INT8 if isinstance(a, Int8) else FRNN_STORED_BF16
    return FRNN_STORED_F32 if dtype == FRNN_F32 else FRNN_STORED_F64


cdef int describe(frnn_cell *c, object cell) except -1:
    """All that C has to know of a cell but for its weights."""
    cdef bytes name = cell.native.encode()
    c.kind = frnn_kind(name)
    assert c.kind >= 0, cell.native
    c.dtype = FRNN_F32 if cell.dtype.itemsize == 4 else FRNN_F64
    c.storage = FRNN_STORED_F32 if c.dtype == FRNN_F32 else FRNN_STORED_F64
    c.replace, c.heads = cell.replaces, cell.heads
    c.I, c.H, c.O = cell.input_size, cell.hidden_size, cell.output_size
    return 0


cdef class NativeCell:
    """A cell and its weights as C takes them. Keeps the arrays alive.

    `packed_for` says for which pass the weights are packed, "forward" or "backward"; None leaves products to BLAS.
    Narrow weights (fastrnn/engines/precision.py) are always packed, and forwards.

    Attributes
    ----------
    packed_bytes : int
        Bytes of the packed weights; 0 where there are none.
    """

    cdef readonly int64_t packed_bytes
    cdef frnn_cell c
    cdef object weights
    cdef void *packed  # shared with layers of the C interface

    def __init__(self, cell, weights, packed_for=None):
        cdef frnn_pass which
        cdef int threads = allowed_threads()
        describe(&self.c, cell)
        self.c.storage = storage_of(weights[0], self.c.dtype)
        if isinstance(weights[0], Narrow):
            packed_for = "forward"
        self.c.replace, self.c.clip = cell.replaces, getattr(cell, "clip", None) or 0
        self.c.linear = getattr(cell, "nonlinearity", None) == "linear"
        self.c.zoneout, self.c.zoneout_cell = cell.zoneouts
        self.c.w_ih, self.c.s_ih = matrix(weights[0])
        self.c.w_hh, self.c.s_hh = matrix(weights[1])
        self.c.w_hr, self.c.s_hr = matrix(weights[4])
        self.c.b_ih, self.c.b_hh = address(weights[2]), address(weights[3])
        self.c.peephole = address(weights[5])
        self.c.norm.ih, self.c.norm.hh = address(weights.norm_ih), address(weights.norm_hh)
        self.c.norm.sum, self.c.norm.eps = address(weights.norm), cell.norm_eps
        self.c.norm.c, self.c.norm.bias_c = address(weights.norm_c), address(weights.bias_c)
        self.c.packed = NULL
        self.weights = weights
        if packed_for is not None:
            which = FRNN_FORWARD if packed_for == "forward" else FRNN_BACKWARD
            self.packed_bytes = frnn_pack_bytes(&self.c, which)
            self.packed = frnn_shared_new(self.packed_bytes)
            if self.packed == NULL:
                raise MemoryError(f"fastrnn: no room for {self.packed_bytes} bytes")
            if self.packed_bytes >= FRNN_KEPT_LEAST:
                PyTraceMalloc_Track(TRACED, <uintptr_t> self.packed, self.packed_bytes)
            with nogil:
                frnn_pack(&self.c, which, threads, self.packed)
            self.c.packed = self.packed

    def __dealloc__(self):
        if self.packed_bytes >= FRNN_KEPT_LEAST:
            PyTraceMalloc_Untrack(TRACED, <uintptr_t> self.packed)
        frnn_shared_disown(self.packed)


cdef class NativeStack:
    """Cells, layer after layer, as C walks through them; `directions` says which are reversed."""

    cdef list cells
    cdef frnn_stack s

    def __init__(self, list cells, directions):
        cdef Py_ssize_t k, count = len(cells)
        cdef const frnn_cell **pointers = <const frnn_cell **> PyMem_RawMalloc(count * sizeof(frnn_cell *))
        if pointers == NULL:
            raise MemoryError()
        self.cells, self.s.cells = cells, pointers
        for k in range(count):
            pointers[k] = &(<NativeCell?> cells[k]).c
        self.s.directions = len(directions)
        self.s.layers = count // self.s.directions
        for k in range(self.s.directions):
            self.s.reverse[k] = directions[k]

    def __dealloc__(self):
        PyMem_RawFree(<void *> self.s.cells)


cdef uint32_t threshold(double probability) noexcept:
    """As fastrnn/engines/philox.py has it."""
    return <uint32_t> (probability * 4294967296.0)


cdef const frnn_noise *unpack_noise(object run, const frnn_cell *cell, frnn_noise *noise) except? NULL:
    """What is random in a run; null if nothing is."""
    drawn = run.noise
    if drawn is None:
        return NULL
    noise.key, noise.first_step = drawn.key, drawn.first_step
    noise.zoneout, noise.zoneout_cell = threshold(cell.zoneout), threshold(cell.zoneout_cell)
    noise.candidate, noise.candidate_scale = threshold(drawn.candidate), 1 / (1 - <double> drawn.candidate)
    noise.state, noise.rows = address(drawn.state), <const int64_t *> address(drawn.rows)
    return noise


cdef int unpack_forward(object run, frnn_forward_args *args) except -1:
    cdef cnp.ndarray x = run.x
    args.steps = unpack_steps(run.steps, x)
    args.x, args.y = series(x), series(run.y)
    args.h0, args.c0 = address(run.h0), address(run.c0)
    args.h_n, args.c_n = address(run.h_n), address(run.c_n)
    args.rows = NULL
    record = run.record
    args.record.gates = NULL if record is None else address(record.gates)
    args.record.cells = NULL if record is None else address(record.cells)
    args.record.norms = NULL if record is None else address(record.norms)
    args.record.fresh = NULL if record is None else address(record.fresh)
    return 0


def forward(list runs):
    """`fastrnn.engines.Engine.forward`: runs are one or two ForwardArgs, prepared as NativeCells."""
    cdef frnn_forward_args args[2]
    cdef frnn_noise noise[2]
    cdef const frnn_cell *cells[2]
    cdef Workspace workspace = Workspace()
    cdef int64_t size = 0, one
    cdef int count = 0, threads = allowed_threads()
    for run in runs:
        cells[count] = &(<NativeCell?> run.prepared).c
        unpack_forward(run, &args[count])
        args[count].noise = unpack_noise(run, cells[count], &noise[count])
        one = frnn_forward_workspace(cells[count], &args[count], threads)
        size = -1 if one < 0 or size < 0 else size + one
        count += 1
    workspace.reserve(size)
    with nogil:
        frnn_forward(count, cells, args, threads, workspace.data)
    raise_pending()


cdef int unpack_backward(object run, frnn_backward_args *args) except -1:
    cdef cnp.ndarray x = run.x
    record, dweights = run.record, run.dweights
    args.steps = unpack_steps(run.steps, x)
    args.x, args.y, args.dy, args.dx = series(x), series(run.y), series(run.dy), series(run.dx)
    args.adds_to_dx, args.adds_to_dcell = run.adds_to_dx, run.adds_to_dweights
    args.h0, args.c0 = address(run.h0), address(run.c0)
    args.record.gates, args.record.cells = address(record.gates), address(record.cells)
    args.record.norms = address(record.norms)
    args.record.fresh = address(record.fresh)
    args.dh_n, args.dc_n = address(run.dh_n), address(run.dc_n)
    args.dh0, args.dc0 = address(run.dh0), address(run.dc0)
    args.dcell.w_ih, args.dcell.w_hh = address(dweights.weight_ih), address(dweights.weight_hh)
    args.dcell.b_ih, args.dcell.b_hh = address(dweights.bias_ih), address(dweights.bias_hh)
    args.dcell.w_hr, args.dcell.peephole = address(dweights.weight_hr), address(dweights.peephole)
    args.dcell.norm_ih, args.dcell.norm_hh = address(dweights.norm_ih), address(dweights.norm_hh)
    args.dcell.norm_sum = address(dweights.norm)
    args.dcell.norm_c, args.dcell.bias_c = address(dweights.norm_c), address(dweights.bias_c)
    return 0


def backward(list runs):
    """`fastrnn.engines.Engine.backward`: runs are one or two BackwardArgs, prepared as NativeCells."""
    cdef frnn_backward_args args[2]
    cdef frnn_noise noise[2]
    cdef const frnn_cell *cells[2]
    cdef Workspace workspace = Workspace()
    cdef int count = 0, threads = allowed_threads()
    for run in runs:
        cells[count] = &(<NativeCell?> run.prepared).c
        unpack_backward(run, &args[count])
        args[count].noise = unpack_noise(run, cells[count], &noise[count])
        count += 1
    workspace.reserve(frnn_backward_workspace(count, cells, args, threads))
    with nogil:
        frnn_backward(count, cells, args, threads, workspace.data)
    raise_pending()


def backward_steps(cell, int64_t B):
    """`fastrnn.engines.Engine.backward_steps`."""
    cdef frnn_cell c
    memset(&c, 0, sizeof(c))
    describe(&c, cell)
    return frnn_backward_steps(&c, B)


cdef class NativeStepper:
    """`fastrnn.engines.Engine.stepper`: a stack of unidirectional cells, one step at a time, without allocation."""

    cdef object keep
    cdef NativeStack stack
    cdef frnn_stack_args args  # all but x, y and the rows stay as they are
    cdef Workspace workspace
    cdef int threads  # that there is room for

    def __init__(self, list cells, cnp.ndarray h, cnp.ndarray c):
        self.keep, self.stack, self.workspace = (h, c), NativeStack(cells, (False,)), Workspace()
        cdef const frnn_cell *bottom = self.stack.s.cells[0]
        cdef int64_t B = cnp.PyArray_DIM(h, 1)
        memset(&self.args, 0, sizeof(self.args))
        self.args.steps.T, self.args.S = 1, B
        self.args.x.stride_t, self.args.x.stride_b = B * bottom.I, bottom.I
        self.args.y.stride_t, self.args.y.stride_b = B * bottom.O, bottom.O
        self.args.h, self.args.c = address(h), address(c)
        self.reserve(allowed_threads())

    cdef int reserve(self, int threads) except -1:
        """Room for so many threads, with all rows; fewer rows need no more."""
        self.args.steps.B = self.args.S
        self.workspace.reserve(frnn_stack_workspace(&self.stack.s, &self.args, threads))
        self.threads = threads
        return 0

    def __call__(self, x, out, rows):
        self.step(x, out, rows)

    cdef int step(self, cnp.ndarray x, cnp.ndarray out, cnp.ndarray rows) except -1:
        cdef int threads = allowed_threads()
        if threads > self.threads:
            self.reserve(threads)
        self.args.steps.B, self.args.rows = cnp.PyArray_DIM(x, 0), <const int64_t *> address(rows)
        self.args.x.data, self.args.y.data = cnp.PyArray_DATA(x), cnp.PyArray_DATA(out)
        with nogil:
            frnn_stack_run(&self.stack.s, &self.args, threads, self.workspace.data)
        return 0


def install_blas(capsules, uintptr_t set_threads, uintptr_t get_threads):
    """Hand SciPy's BLAS to C: {name: capsule} of sgemm, dgemm, sgemv, dgemv, and the addresses that control its threads.

    A capsule's name is the routine's C signature; it says how wide BLAS's integers are. Returns that, in bytes.
    """
    pointers = {}
    for name in ("sgemm", "dgemm", "sgemv", "dgemv"):
        pointers[name] = <uintptr_t> PyCapsule_GetPointer(capsules[name], PyCapsule_GetName(capsules[name]))
    signature = (<bytes> PyCapsule_GetName(capsules["sgemm"])).decode()
    # "int *" is 32 bits; SciPy's name for 64 is an alias, or long
    cdef int integer_bytes = 4 if " int *" in signature else 8
    frnn_blas_install(
        <void *> <uintptr_t> pointers["sgemm"], <void *> <uintptr_t> pointers["dgemm"],
        <void *> <uintptr_t> pointers["sgemv"], <void *> <uintptr_t> pointers["dgemv"], integer_bytes,
        <void *> set_threads, <void *> get_threads,
    )
    return integer_bytes


def blas_after_fork():
    """In a child of fork(): BLAS has its number of threads, whatever other threads of the parent were computing."""
    frnn_blas_after_fork()


def isa_names():
    """Instruction sets that run on this machine, best first."""
    names = []
    while frnn_isa_name(len(names)) != NULL:
        names.append(frnn_isa_name(len(names)).decode())
    return tuple(names)


def isa_select(str name):
    """Use this instruction set's kernels from now on, in the whole process; False if it is not there."""
    return bool(frnn_isa_select(name.encode()))


def isa_selected():
    """The instruction set whose kernels are used."""
    return frnn_isa_selected().decode()


def threading_names():
    """Providers of threads that are compiled in, the default first."""
    names = []
    while frnn_threading_name(len(names)) != NULL:
        names.append(frnn_threading_name(len(names)).decode())
    return tuple(names)


def threading_select(str name):
    """Take threads from this provider from now on, in the whole process; False if it is not there."""
    return bool(frnn_threading_select(name.encode()))


def threading_selected():
    """The provider whose threads are used."""
    return frnn_threading_selected().decode()


def insist_on_teams(str split):
    """For tests and benchmarks: teams share "rows" or "units" with as many threads as asked; None lets them choose."""
    frnn_team_insist({None: FRNN_CHOOSE, "rows": FRNN_BY_ROWS, "units": FRNN_BY_UNITS}[split])


def simulate_plan(
    str cell, bint backward, int64_t T, int64_t B, int64_t I, int64_t H, int directions, int lanes, int threads
):
    """What the cost model chooses for a float32 pass, and expects of it: (nanoseconds, members, "rows" or "units")."""
    cdef int members
    cdef frnn_split split
    cdef bytes name = cell.encode()
    cdef frnn_pass which = FRNN_BACKWARD if backward else FRNN_FORWARD
    cdef double time
    if frnn_kind(name) < 0:
        raise ValueError(f"cell: expected the name of one in C, got {cell!r}")
    time = frnn_simulate_plan(name, FRNN_F32, which, T, B, I, H, directions, lanes, threads, &members, &split)
    return time, members, "units" if split == FRNN_BY_UNITS else "rows"


def has_threads():
    """Whether a team can have more than one thread."""
    return bool(frnn_has_threads())


def activation(str name, cnp.ndarray x not None, cnp.ndarray y not None):
    """y[...] = tanh, sigmoid or log_sigmoid of x, contiguous arrays of one floating dtype, with the vector code of the kernels."""
    cdef frnn_dtype dtype = FRNN_F32 if cnp.PyArray_ITEMSIZE(x) == 4 else FRNN_F64
    cdef int64_t n = cnp.PyArray_SIZE(x)
    if name == "tanh":
        frnn_tanh(dtype, n, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y))
    elif name == "sigmoid":
        frnn_sigmoid(dtype, n, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y))
    else:
        frnn_log_sigmoid(dtype, n, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y))


def gemm(bint ta, bint tb, cnp.ndarray a not None, cnp.ndarray b not None, bint beta, cnp.ndarray c not None):
    """c = beta*c + op(a) op(b) for two-dimensional arrays with contiguous rows."""
    cdef frnn_dtype dtype = FRNN_F32 if cnp.PyArray_ITEMSIZE(a) == 4 else FRNN_F64
    cdef int64_t size = cnp.PyArray_ITEMSIZE(a), K = cnp.PyArray_DIM(a, 0 if ta else 1)
    frnn_blas_gemm(
        dtype, ta, tb, cnp.PyArray_DIM(c, 0), cnp.PyArray_DIM(c, 1), K, cnp.PyArray_DATA(a),
        cnp.PyArray_STRIDE(a, 0) // size, cnp.PyArray_DATA(b), cnp.PyArray_STRIDE(b, 0) // size, beta,
        cnp.PyArray_DATA(c), cnp.PyArray_STRIDE(c, 0) // size,
    )


def probe_multiply_add(int itemsize, int64_t repeats):
    """Multiply-adds in registers, of values of 8, 4, 2 (bfloat16) or 1 byte; how many operations, and what came out."""
    cdef double result
    cdef int64_t operations
    with nogil:
        operations = frnn_probe_multiply_add(itemsize, repeats, &result)
    return operations, result


def probe_read(cnp.ndarray data not None, int64_t repeats):
    """Read a contiguous, 64-byte aligned floating array; how many bytes, and the sum of some."""
    cdef frnn_dtype dtype = FRNN_F32 if cnp.PyArray_ITEMSIZE(data) == 4 else FRNN_F64
    cdef double result
    cdef int64_t count
    cdef void *pointer = cnp.PyArray_DATA(data)
    cdef int64_t size = cnp.PyArray_NBYTES(data)
    with nogil:
        count = frnn_probe_read(dtype, pointer, size, repeats, &result)
    return count, result


cdef inline int64_t stride_of(cnp.ndarray a, int axis) noexcept:
    """In elements."""
    return cnp.PyArray_STRIDE(a, axis) // cnp.PyArray_ITEMSIZE(a)


cdef inline frnn_dtype dtype_of(cnp.ndarray a) noexcept:
    return FRNN_F32 if cnp.PyArray_ITEMSIZE(a) == 4 else FRNN_F64


def lanes(int itemsize):
    """How many values of float32 (itemsize 4) or float64 a vector of the selected instruction set has."""
    return frnn_direct_lanes(FRNN_F32 if itemsize == 4 else FRNN_F64)


def pack(cnp.ndarray weights not None, bint transposed, cnp.ndarray packed not None):
    """Pack R, the two-dimensional weights or their transpose, into an array (vectors, rows, lanes)."""
    cdef int64_t K = cnp.PyArray_DIM(weights, 1 if transposed else 0)
    frnn_direct_pack(
        dtype_of(packed), transposed, K, cnp.PyArray_DIM(weights, 0 if transposed else 1), cnp.PyArray_DATA(weights),
        stride_of(weights, 0), cnp.PyArray_DATA(packed), stride_of(packed, 0),
    )


def pack_row(cnp.ndarray row not None, cnp.ndarray packed not None, int64_t at):
    """Pack a row of a matrix, as its row `at`."""
    frnn_direct_pack_row(
        dtype_of(packed), cnp.PyArray_DIM(row, 0), cnp.PyArray_DATA(row), cnp.PyArray_DATA(packed),
        stride_of(packed, 0), at,
    )


def multiply(
    cnp.ndarray a not None, cnp.ndarray packed not None, int64_t K, bint beta, cnp.ndarray c not None, bint descending
):
    """c = beta*c + a R with R packed; a is (rows, K), or packed (vectors, rows, lanes)."""
    cdef int64_t a_row = stride_of(a, 0), a_vector = frnn_direct_lanes(dtype_of(a))
    if cnp.PyArray_NDIM(a) == 3:
        a_row, a_vector = a_vector, a_row
    frnn_direct_multiply(
        dtype_of(c), cnp.PyArray_DIM(c, 0), cnp.PyArray_DIM(c, 1), K, cnp.PyArray_DATA(a), a_row, a_vector,
        cnp.PyArray_DATA(packed), stride_of(packed, 0), beta, cnp.PyArray_DATA(c), stride_of(c, 0), descending,
    )


def add_gradient(cnp.ndarray a not None, cnp.ndarray packed not None, int64_t K, cnp.ndarray c not None):
    """c += A^T R with A and R packed, each of K rows."""
    frnn_direct_add_gradient(
        dtype_of(c), cnp.PyArray_DIM(c, 0), cnp.PyArray_DIM(c, 1), K, cnp.PyArray_DATA(a), stride_of(a, 0),
        cnp.PyArray_DATA(packed), stride_of(packed, 0), cnp.PyArray_DATA(c), stride_of(c, 0),
    )


def add_columns(cnp.ndarray packed not None, int64_t rows, cnp.ndarray total not None):
    """total += the sums of a packed matrix's columns."""
    frnn_direct_add_columns(
        dtype_of(total), rows, cnp.PyArray_DIM(total, 0), cnp.PyArray_DATA(packed), stride_of(packed, 0),
        cnp.PyArray_DATA(total),
    )


def multiply_narrow(
    cnp.ndarray a not None, cnp.ndarray weights not None, cnp.ndarray scales, bint beta, cnp.ndarray c not None,
    bint descending
):
    """c = beta*c + a W^T with W (columns, K) of bfloat16's bits, uint16, or int8 with the scales of its rows."""
    cdef frnn_storage storage = FRNN_STORED_BF16 if scales is None else FRNN_STORED_INT8
    cdef int64_t rows = cnp.PyArray_DIM(a, 0), K = cnp.PyArray_DIM(a, 1), columns = cnp.PyArray_DIM(weights, 0)
    cdef cnp.npy_intp size = frnn_direct_narrow_work(storage, rows, columns, K) // 4
    cdef cnp.ndarray work = cnp.PyArray_EMPTY(1, &size, cnp.NPY_FLOAT32, 0)
    frnn_direct_multiply_narrow(
        storage, rows, columns, K, <const float *> cnp.PyArray_DATA(a), stride_of(a, 0), cnp.PyArray_DATA(weights),
        <const float *> address(scales), cnp.PyArray_DATA(work), beta,
        <float *> cnp.PyArray_DATA(c), stride_of(c, 0), descending,
    )


# Whether a thread uses a stream. An atomic exchange, for where there is no GIL.
cdef extern from *:
    """
    #include <stdatomic.h>
    static inline int claim(atomic_int *busy) { return !atomic_exchange_explicit(busy, 1, memory_order_acquire); }
    static inline void unclaim(atomic_int *busy) { atomic_store_explicit(busy, 0, memory_order_release); }
    """
    ctypedef int atomic_int
    bint claim(atomic_int *busy) noexcept
    void unclaim(atomic_int *busy) noexcept


cdef class StepGate:
    """The way of a stream's steps to its stepper: one thread at a time.

    It copies the numbers of rows, which nobody can change then while C reads them. `with gate:` is for whatever else
    changes the stream's state.
    """

    cdef object stepper
    cdef NativeStepper native
    cdef int64_t B, I, O
    cdef int dtype
    cdef atomic_int busy
    cdef cnp.ndarray rows  # (B,) those of the last step that had some; None before the first one
    cdef cnp.ndarray last  # (B,) the last step that each row was in
    cdef int64_t steps  # that had rows

    def __init__(self, stepper, int64_t B, int64_t I, int64_t O, dtype):
        self.native = stepper if isinstance(stepper, NativeStepper) else None
        self.stepper, self.B, self.I, self.O, self.dtype = stepper, B, I, O, dtype.num

    def takes(self, x, out, rows):
        """Step if all can be taken as it is, which is the usual case; return whether it was.

        x (n, I) and out (n, O) are of the dtype, contiguous and apart; rows None, or n distinct ones as int64.
        """
        cdef int64_t n = self.B
        cdef char *read
        cdef char *written
        if rows is not None:
            if not (
                cnp.PyArray_CheckExact(rows) and cnp.PyArray_TYPE(rows) == cnp.NPY_INT64 and cnp.PyArray_NDIM(rows) == 1
                and cnp.PyArray_ISCARRAY_RO(rows)
            ):
                return False
            n = cnp.PyArray_DIM(rows, 0)
        if not (self.fits(x, n, self.I) and self.fits(out, n, self.O)):
            return False
        if not (cnp.PyArray_ISCARRAY_RO(x) and cnp.PyArray_ISCARRAY(out)):  # in this machine's byte order, too
            return False
        read, written = cnp.PyArray_BYTES(x), cnp.PyArray_BYTES(out)
        if read + cnp.PyArray_NBYTES(x) > written and written + cnp.PyArray_NBYTES(out) > read:
            return False
        return self.step(x, out, rows)

    cpdef bint step(self, cnp.ndarray x, cnp.ndarray out, cnp.ndarray rows) except -1:
        """Step with arrays that have been checked; False if the rows are not distinct ones of 0..B-1."""
        self.enter()
        try:
            if rows is not None and not self.copy(rows):
                return False
            if self.native is not None:
                self.native.step(x, out, None if rows is None else self.rows)
            else:
                self.stepper(x, out, None if rows is None else self.rows)
        finally:
            unclaim(&self.busy)
        return True

    cdef inline bint fits(self, object a, int64_t rows, int64_t columns):
        return (
            cnp.PyArray_CheckExact(a) and cnp.PyArray_TYPE(a) == self.dtype and cnp.PyArray_NDIM(a) == 2
            and cnp.PyArray_DIM(a, 0) == rows and cnp.PyArray_DIM(a, 1) == columns
        )

    cdef bint copy(self, cnp.ndarray rows) except -1:
        """Copy the rows if they are distinct ones of 0..B-1."""
        if self.rows is None:
            self.last, self.rows = np.zeros(self.B, np.int64), np.zeros(self.B, np.int64)
        self.steps += 1
        return frnn_distinct_rows(
            cnp.PyArray_DIM(rows, 0), <const int64_t *> cnp.PyArray_DATA(rows), self.B, self.steps,
            <int64_t *> cnp.PyArray_DATA(self.last), <int64_t *> cnp.PyArray_DATA(self.rows),
        )

    cdef int enter(self) except -1:
        if not claim(&self.busy):
            raise RuntimeError("stream: expected one thread at a time, got a call while another thread's runs")
        return 0

    def __enter__(self):
        self.enter()

    def __exit__(self, kind, value, traceback):
        unclaim(&self.busy)


include "products.pxi"
include "attention.pxi"
include "search.pxi"
include "dropout.pxi"
include "optimizers.pxi"
include "rows.pxi"
include "addresses.pxi"
include "interface.pxi"
