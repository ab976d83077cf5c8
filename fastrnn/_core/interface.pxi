# The C interface (fastrnn/include/fastrnn/capi.h): its table in a capsule, and layers made of Python's objects.

from cpython.pycapsule cimport PyCapsule_New


cdef FastRNN_Layer *layer_from_object(PyObject *frozen) noexcept:
    """NULL with an exception that stays set."""
    cdef FastRNN_Layer *layer = NULL
    try:
        layer = layer_of(<object> frozen)
    except BaseException as error:
        PyErr_SetObject(type(error), error)
    return layer


cdef FastRNN_Layer *layer_of(object frozen) except NULL:
    from fastrnn.frozen import Frozen

    if not isinstance(frozen, Frozen):
        raise TypeError(f"frozen: expected a fastrnn.Frozen, from a layer's freeze(), got {type(frozen).__name__}")
    cells, directions, h, c = frozen._packed()
    cdef NativeStack stack = NativeStack(cells, directions)
    cdef FastRNN_Layer *layer = frnn_layer_new(&stack.s, address(h), address(c))
    if layer == NULL:
        raise MemoryError("fastrnn: no room for a layer")
    return layer


cdef frnn_python python
python.num_threads, python.layer_from_object = allowed_threads, layer_from_object
C_API = PyCapsule_New(<void *> frnn_interface(python), "fastrnn._C_API", NULL)
