#include <Python.h>
#include <fastrnn/capi.h>

static const FastRNN_API *api;

/* Steps of one sequence: x (T, I) -> y (T, O). Plain C: it could as well run in the thread of a sound card. */
static int run_steps(FastRNN_Layer *layer, const FastRNN_LayerInfo *info, const float *x, float *y, size_t T) {
    const size_t I = (size_t)info->input_size, O = (size_t)info->output_size;
    FastRNN_Stream *stream = api->stream_new(layer, 1, 1); /* one sequence, one thread */
    int code = stream ? FASTRNN_OK : FASTRNN_INVALID;
    for (size_t t = 0; t < T && code == FASTRNN_OK; t++)
        code = api->stream_step(stream, 1, NULL, x + t * I, I * sizeof *x, y + t * O, O * sizeof *y);
    api->stream_free(stream);
    return code;
}

/* steps(frozen, x, y): buffers of float, the one with T*I values, the other writable with T*O. */
static PyObject *steps(PyObject *self, PyObject *args) {
    PyObject *frozen, *result = NULL;
    Py_buffer x, y;
    FastRNN_LayerInfo info = {.size = sizeof info};
    if (!PyArg_ParseTuple(args, "Oy*w*", &frozen, &x, &y)) return NULL;
    FastRNN_Layer *layer = api->layer_from_object(frozen); /* NULL has set an exception */
    if (layer && api->layer_info(layer, &info) == FASTRNN_OK) {
        const size_t T = (size_t)x.len / sizeof(float) / (size_t)info.input_size;
        if (info.dtype != FASTRNN_FLOAT32 || (size_t)y.len != T * (size_t)info.output_size * sizeof(float)) {
            PyErr_SetString(PyExc_ValueError, "y: expected T*O values, and a layer of float32");
        } else {
            int code;
            Py_BEGIN_ALLOW_THREADS;
            code = run_steps(layer, &info, x.buf, y.buf, T);
            Py_END_ALLOW_THREADS;
            if (code == FASTRNN_OK)
                result = Py_NewRef(Py_None);
            else
                PyErr_SetString(PyExc_ValueError, api->message());
        }
    }
    api->layer_release(layer);
    PyBuffer_Release(&x);
    PyBuffer_Release(&y);
    return result;
}

static PyMethodDef methods[] = {{"steps", steps, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "example", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_example(void) {
    api = FastRNN_Import(); /* NULL with an ImportError if the installed fastrnn is too old */
    return api ? PyModule_Create(&module) : NULL;
}
