// Streams in threads that Python does not know, while a caller holds the GIL: they would never end if one needed it.
#include <Python.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include <fastrnn/capi.h>

static const FastRNN_API *api;

// Each thread runs x (T, I) through a stream of its own and writes y (T, O); returns how many threads had no error.
static PyObject *streams_in_threads(PyObject *, PyObject *args) {
    PyObject *frozen;
    Py_buffer x, y;
    int threads, bytes;
    if (!PyArg_ParseTuple(args, "Oy*w*ii", &frozen, &x, &y, &threads, &bytes)) return nullptr;
    FastRNN_Layer *layer = api->layer_from_object(frozen);
    long good = -1;
    if (layer) {
        FastRNN_LayerInfo info = FastRNN_LayerInfo();
        info.size = sizeof info;
        api->layer_info(layer, &info);
        const size_t x_row = static_cast<size_t>(info.input_size * bytes),
                     y_row = static_cast<size_t>(info.output_size * bytes);
        const size_t T = static_cast<size_t>(x.len) / x_row;
        std::atomic<long> count(0);
        std::vector<std::thread> team;
        for (int k = 0; k < threads; k++)
            team.emplace_back([&, k] {
                FastRNN_Stream *stream = api->stream_new(layer, 1, 1);
                int wrong = stream == nullptr;
                char *out = static_cast<char *>(y.buf) + static_cast<size_t>(k) * T * y_row;
                for (size_t t = 0; t < T && !wrong; t++)
                    wrong = api->stream_step(stream, 1, nullptr, static_cast<char *>(x.buf) + t * x_row, x_row,
                                             out + t * y_row, y_row);
                api->stream_free(stream);
                count += !wrong;
            });
        for (auto &member : team) member.join();
        api->layer_release(layer);
        good = count;
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&y);
    return good < 0 ? nullptr : PyLong_FromLong(good);
}

// A sequence in one call, in a thread, from a caller that holds the GIL.
static PyObject *run_in_thread(PyObject *, PyObject *args) {
    PyObject *frozen;
    Py_buffer x, y;
    int bytes;
    if (!PyArg_ParseTuple(args, "Oy*w*i", &frozen, &x, &y, &bytes)) return nullptr;
    FastRNN_Layer *layer = api->layer_from_object(frozen);
    int code = FASTRNN_INVALID;
    if (layer) {
        FastRNN_LayerInfo info = FastRNN_LayerInfo();
        info.size = sizeof info;
        api->layer_info(layer, &info);
        FastRNN_Run run = FastRNN_Run();
        run.size = sizeof run;
        run.dtype = info.dtype;
        run.B = 1;
        run.T = x.len / (info.input_size * bytes);
        run.input_size = info.input_size, run.output_size = info.output_size;
        run.x = x.buf, run.y = y.buf;
        std::thread([&] { code = api->layer_run(layer, &run); }).join();
        api->layer_release(layer);
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&y);
    return layer ? PyLong_FromLong(code) : nullptr;
}

// Two threads that step one stream, so many times each; how many steps were done, and how many were refused as busy.
static PyObject *share_a_stream(PyObject *, PyObject *args) {
    PyObject *frozen;
    int steps;
    if (!PyArg_ParseTuple(args, "Oi", &frozen, &steps)) return nullptr;
    FastRNN_Layer *layer = api->layer_from_object(frozen);
    FastRNN_LayerInfo info = FastRNN_LayerInfo();
    info.size = sizeof info;
    if (!layer || api->layer_info(layer, &info)) return nullptr;
    FastRNN_Stream *stream = api->stream_new(layer, 1, 1);
    api->layer_release(layer); // the stream keeps it
    std::atomic<long> done(0), busy(0);
    auto user = [&] {
        std::vector<float> x(static_cast<size_t>(info.input_size), 1.0f), y(static_cast<size_t>(info.output_size));
        for (int k = 0; k < steps; k++) {
            const int code = api->stream_step(stream, 1, nullptr, x.data(), x.size() * sizeof(float), y.data(),
                                              y.size() * sizeof(float));
            if (code == FASTRNN_OK) done++;
            if (code == FASTRNN_BUSY) busy++;
        }
    };
    std::thread other(user);
    user();
    other.join();
    api->stream_free(stream);
    return Py_BuildValue("ll", done.load(), busy.load());
}

// Nanoseconds of a step, the least of some rounds.
static PyObject *time_steps(PyObject *, PyObject *args) {
    PyObject *frozen;
    int rounds, steps;
    if (!PyArg_ParseTuple(args, "Oii", &frozen, &rounds, &steps)) return nullptr;
    FastRNN_Layer *layer = api->layer_from_object(frozen);
    FastRNN_LayerInfo info = FastRNN_LayerInfo();
    info.size = sizeof info;
    if (!layer || api->layer_info(layer, &info)) return nullptr;
    FastRNN_Stream *stream = api->stream_new(layer, 1, 1);
    std::vector<float> x(static_cast<size_t>(info.input_size), 1.0f), y(static_cast<size_t>(info.output_size));
    double best = 1e30;
    for (int r = 0; r < rounds; r++) {
        const auto begin = std::chrono::steady_clock::now();
        for (int k = 0; k < steps; k++)
            api->stream_step(stream, 1, nullptr, x.data(), x.size() * sizeof(float), y.data(),
                             y.size() * sizeof(float));
        const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - begin;
        if (time.count() / steps < best) best = time.count() / steps;
    }
    api->stream_free(stream);
    api->layer_release(layer);
    return PyFloat_FromDouble(best);
}

static PyMethodDef methods[] = {
    {"streams_in_threads", streams_in_threads, METH_VARARGS, nullptr},
    {"run_in_thread", run_in_thread, METH_VARARGS, nullptr},
    {"share_a_stream", share_a_stream, METH_VARARGS, nullptr},
    {"time_steps", time_steps, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "from_cpp", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit_from_cpp(void) {
    api = FastRNN_Import();
    return api ? PyModule_Create(&module) : nullptr;
}
