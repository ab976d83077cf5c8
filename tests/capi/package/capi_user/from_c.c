/* Every function of the interface, called with buffers that Python gives; and capsules of other versions. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include <fastrnn/capi.h>

static const FastRNN_API *api;

/* ---- Handles in capsules ---- */

static void free_layer(PyObject *capsule) { api->layer_release(PyCapsule_GetPointer(capsule, "layer")); }

static void free_stream(PyObject *capsule) { api->stream_free(PyCapsule_GetPointer(capsule, "stream")); }

static PyObject *capsule_of(void *handle, const char *name, PyCapsule_Destructor destructor) {
    if (handle) return PyCapsule_New(handle, name, destructor);
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, api->message());
    return NULL;
}

static PyObject *checked(int code) {
    if (code == FASTRNN_OK) Py_RETURN_NONE;
    return PyErr_Format(code == FASTRNN_INVALID ? PyExc_ValueError : PyExc_RuntimeError, "%s", api->message());
}

/* The memory of an array; NULL for None. Arrays stay alive: tests hold them. */
static int memory(PyObject *object, void *result) {
    Py_buffer view = {NULL};
    if (object != Py_None && PyObject_GetBuffer(object, &view, PyBUF_STRIDES) < 0) return 0;
    *(void **)result = view.buf;
    if (object != Py_None) PyBuffer_Release(&view);
    return 1;
}

/* ---- Layers ---- */

static PyObject *layer_from_object(PyObject *self, PyObject *frozen) {
    (void)self;
    return capsule_of(api->layer_from_object(frozen), "layer", free_layer);
}

static PyObject *layer_new(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {
        "cell",        "dtype",   "num_layers",   "num_directions", "reverse", "update_replaces", "input_size",
        "hidden_size", "weights", "proj_size",    "num_heads",      "linear",  "layer_norm",      "layer_norm_eps",
        "clip",        "zoneout", "zoneout_cell", "size",           NULL};
    FastRNN_LayerSpec spec = {.size = sizeof spec};
    FastRNN_Weights weights[16];
    PyObject *arrays;
    Py_ssize_t size = (Py_ssize_t)sizeof spec;
    (void)self;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "ziiiiiLLO|LLiiddddn", names, &spec.cell, &spec.dtype,
                                     &spec.num_layers, &spec.num_directions, &spec.reverse, &spec.update_replaces,
                                     &spec.input_size, &spec.hidden_size, &arrays, &spec.proj_size, &spec.num_heads,
                                     &spec.linear, &spec.layer_norm, &spec.layer_norm_eps, &spec.clip, &spec.zoneout,
                                     &spec.zoneout_cell, &size))
        return NULL;
    spec.size = (size_t)size;
    memset(weights, 0, sizeof weights);
    const Py_ssize_t count = PyTuple_GET_SIZE(arrays);
    for (Py_ssize_t k = 0; k < count && k < 16; k++) {
        static char *fields[] = {"weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "peephole",
                                 "norm_ih",   "norm_hh",   "norm",    "norm_c",  "bias_c",    NULL};
        FastRNN_Weights *w = weights + k;
        PyObject *none = PyTuple_New(0);
        const int fit = none && PyArg_ParseTupleAndKeywords(
                                    none, PyTuple_GET_ITEM(arrays, k), "|O&O&O&O&O&O&O&O&O&O&O&", fields, memory,
                                    &w->weight_ih, memory, &w->weight_hh, memory, &w->bias_ih, memory, &w->bias_hh,
                                    memory, &w->weight_hr, memory, &w->peephole, memory, &w->norm_ih, memory,
                                    &w->norm_hh, memory, &w->norm, memory, &w->norm_c, memory, &w->bias_c);
        Py_XDECREF(none);
        if (!fit) return NULL;
    }
    return capsule_of(api->layer_new(&spec, weights, count), "layer", free_layer);
}

static PyObject *layer_info(PyObject *self, PyObject *capsule) {
    FastRNN_LayerInfo info = {.size = sizeof info};
    const FastRNN_Layer *layer = PyCapsule_GetPointer(capsule, "layer");
    (void)self;
    if (!layer || api->layer_info(layer, &info)) return NULL;
    return Py_BuildValue("siiiiiiLLLL", info.cell, info.dtype, info.num_layers, info.num_directions, info.reverse,
                         info.has_c, info.has_initial_state, (long long)info.input_size, (long long)info.hidden_size,
                         (long long)info.state_size, (long long)info.output_size);
}

static PyObject *layer_run(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"layer", "dtype",  "threads", "T",       "B",      "input_size", "output_size",
                            "x",     "x_step", "x_row",   "y",       "y_step", "y_row",      "h0",
                            "c0",    "h_n",    "c_n",     "lengths", "resets", "size",       NULL};
    FastRNN_Run run = {.size = sizeof run};
    PyObject *capsule;
    long long size = sizeof run;
    int code;
    (void)self;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OiiLLLLO&LLO&LLO&O&O&O&O&O&|L", names, &capsule, &run.dtype,
                                     &run.threads, &run.T, &run.B, &run.input_size, &run.output_size, memory, &run.x,
                                     &run.x_step, &run.x_row, memory, &run.y, &run.y_step, &run.y_row, memory, &run.h0,
                                     memory, &run.c0, memory, &run.h_n, memory, &run.c_n, memory, &run.lengths, memory,
                                     &run.resets, &size))
        return NULL;
    run.size = (size_t)size;
    const FastRNN_Layer *layer = capsule == Py_None ? NULL : PyCapsule_GetPointer(capsule, "layer");
    if (PyErr_Occurred()) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    code = api->layer_run(layer, &run);
    Py_END_ALLOW_THREADS;
    return checked(code);
}

/* ---- Streams ---- */

static PyObject *stream_new(PyObject *self, PyObject *args) {
    PyObject *capsule;
    long long B;
    int threads;
    (void)self;
    if (!PyArg_ParseTuple(args, "OLi", &capsule, &B, &threads)) return NULL;
    return capsule_of(api->stream_new(PyCapsule_GetPointer(capsule, "layer"), B, threads), "stream", free_stream);
}

static PyObject *stream_step(PyObject *self, PyObject *args) {
    PyObject *capsule;
    long long n;
    const int64_t *rows;
    const void *x;
    void *y;
    Py_ssize_t x_bytes, y_bytes;
    (void)self;
    if (!PyArg_ParseTuple(args, "OLO&O&nO&n", &capsule, &n, memory, &rows, memory, &x, &x_bytes, memory, &y, &y_bytes))
        return NULL;
    FastRNN_Stream *stream = capsule == Py_None ? NULL : PyCapsule_GetPointer(capsule, "stream");
    return checked(api->stream_step(stream, n, rows, x, (size_t)x_bytes, y, (size_t)y_bytes));
}

static PyObject *stream_reset(PyObject *self, PyObject *args) {
    PyObject *capsule;
    long long n;
    const int64_t *rows;
    (void)self;
    if (!PyArg_ParseTuple(args, "OLO&", &capsule, &n, memory, &rows)) return NULL;
    return checked(api->stream_reset(PyCapsule_GetPointer(capsule, "stream"), n, rows));
}

static PyObject *stream_state(PyObject *self, PyObject *args) {
    PyObject *capsule;
    int set;
    void *h, *c;
    Py_ssize_t h_bytes, c_bytes;
    (void)self;
    if (!PyArg_ParseTuple(args, "OpO&nO&n", &capsule, &set, memory, &h, &h_bytes, memory, &c, &c_bytes)) return NULL;
    FastRNN_Stream *stream = PyCapsule_GetPointer(capsule, "stream");
    return checked((set ? api->stream_set_state(stream, h, (size_t)h_bytes, c, (size_t)c_bytes)
                        : api->stream_get_state(stream, h, (size_t)h_bytes, c, (size_t)c_bytes)));
}

/* ---- Importing ---- */

/* A capsule as another version of fastrnn would have it. */
static PyObject *capsule_of_version(PyObject *self, PyObject *args) {
    static FastRNN_API other;
    long long size;
    (void)self;
    other = *api;
    if (!PyArg_ParseTuple(args, "iiL", &other.abi, &other.version, &size)) return NULL;
    other.size = (size_t)((long long)other.size + size);
    return PyCapsule_New(&other, "fastrnn._C_API", NULL);
}

static PyObject *import_again(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    return FastRNN_Import() ? PyLong_FromLong(api->num_threads()) : NULL;
}

static PyMethodDef methods[] = {
    {"layer_from_object", layer_from_object, METH_O, NULL},
    {"layer_new", (PyCFunction)(void (*)(void))layer_new, METH_VARARGS | METH_KEYWORDS, NULL},
    {"layer_info", layer_info, METH_O, NULL},
    {"layer_run", (PyCFunction)(void (*)(void))layer_run, METH_VARARGS | METH_KEYWORDS, NULL},
    {"stream_new", stream_new, METH_VARARGS, NULL},
    {"stream_step", stream_step, METH_VARARGS, NULL},
    {"stream_reset", stream_reset, METH_VARARGS, NULL},
    {"stream_state", stream_state, METH_VARARGS, NULL},
    {"capsule_of_version", capsule_of_version, METH_VARARGS, NULL},
    {"import_again", import_again, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "from_c", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_from_c(void) {
    api = FastRNN_Import();
    return api ? PyModule_Create(&module) : NULL;
}
