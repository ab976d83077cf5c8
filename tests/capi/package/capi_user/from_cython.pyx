# cython: language_level=3
from libc.string cimport memset

from fastrnn.capi cimport (
    FASTRNN_FLOAT32, FASTRNN_OK, FastRNN_API, FastRNN_Import, FastRNN_Layer, FastRNN_LayerInfo, FastRNN_Run,
    FastRNN_Stream,
)

cdef const FastRNN_API *api = FastRNN_Import()  # an ImportError if the installed fastrnn is too old


cdef class Runner:
    """A frozen layer of float32, and a stream on it."""

    cdef FastRNN_Layer *layer
    cdef FastRNN_Stream *stream
    cdef FastRNN_LayerInfo info

    def __cinit__(self, frozen):
        self.layer = api.layer_from_object(frozen)  # raises an error if it is no frozen layer
        self.stream = api.stream_new(self.layer, 1, 1)  # one sequence, one thread
        if self.stream == NULL:
            raise ValueError(api.message().decode())
        self.info.size = sizeof(self.info)
        api.layer_info(self.layer, &self.info)

    def __dealloc__(self):
        api.stream_free(self.stream)
        api.layer_release(self.layer)

    def run(self, const float[:, :, ::1] x, float[:, :, ::1] y):
        """Whole sequences, x (T, B, I) -> y (T, B, O)."""
        cdef FastRNN_Run run
        cdef int code
        if x.shape[0] != y.shape[0] or x.shape[1] != y.shape[1]:
            raise ValueError("y: expected as many steps and rows as x has")
        memset(&run, 0, sizeof(run))
        run.size, run.dtype = sizeof(run), FASTRNN_FLOAT32
        run.T, run.B, run.input_size, run.output_size = x.shape[0], x.shape[1], x.shape[2], y.shape[2]
        run.x, run.y = &x[0, 0, 0], &y[0, 0, 0]
        with nogil:
            code = api.layer_run(self.layer, &run)
        if code != FASTRNN_OK:
            raise ValueError(api.message().decode())

    def steps(self, const float[:, ::1] x, float[:, ::1] y):
        """One sequence, x (T, I) -> y (T, O), a step at a time."""
        cdef Py_ssize_t t
        cdef int code = FASTRNN_OK
        with nogil:
            for t in range(x.shape[0]):
                code = api.stream_step(
                    self.stream, 1, NULL, &x[t, 0], x.shape[1] * sizeof(float), &y[t, 0], y.shape[1] * sizeof(float)
                )
                if code != FASTRNN_OK:
                    break
        if code != FASTRNN_OK:
            raise ValueError(api.message().decode())
