"""Files of ONNX models: read with checks, and bounded by what they hold.

Nothing in a file is executed, and no file is opened that does not lie in the model's directory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import numpy_helper

from fastrnn.formats.reading import Budget, opened

__all__ = ["Model", "ModelTensors", "bodies", "inlined", "is_external", "is_onnx", "read", "text"]

MOST_NESTED = 50  # graphs within graphs, and functions that call functions; models of real use have a few

# What tensors may hold. The rest is text, complex numbers, and types of less than a byte.
TYPES = {
    getattr(onnx.TensorProto, name)
    for name in (
        "FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16",
        "UINT32", "UINT64",
    )
}  # fmt: skip


class Model:
    """A model with the directory that its external data lies in; None if that is not known."""

    def __init__(self, proto: Any, directory: str | None) -> None:
        self.proto = proto
        self.tensors = ModelTensors(directory)

    def budget(self, max_bytes: int | None) -> Budget:
        """What it may take, by the bytes of the model and of the files of its tensors, each file once."""
        found = (self.tensors.file_of(tensor) for tensor in _tensors(self.proto.graph) if is_external(tensor))
        files = sum(os.stat(file).st_size for file in set(found) if file is not None)
        return Budget(self.proto.ByteSize() + files, max_bytes)


def read(path: str | os.PathLike[str]) -> Model:
    """Read a model; its tensors in files of their own are read when they are asked for."""
    with opened(path, "an ONNX model in protobuf", None) as (file, _):
        proto = onnx.ModelProto.FromString(file.read())
        if not proto.HasField("graph"):
            raise ValueError("it has no graph")
    return Model(proto, os.path.dirname(os.path.abspath(os.fsdecode(path))))


def text(value: Any) -> str:
    """A string of a model: protobuf gives bytes where it is not UTF-8."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def is_onnx(domain: Any) -> bool:
    """Whether operators of this domain are those of ONNX itself."""
    return domain in ("", "ai.onnx")


def bodies(node: Any) -> list[Any]:
    """The graphs in a node: of an If what is done where the condition holds, and then the other one."""
    attributes = sorted(node.attribute, key=lambda attribute: attribute.name == "else_branch")
    return [body for a in attributes for body in ([a.g] if a.HasField("g") else []) + list(a.graphs)]


# ---- Tensors ------------------------------------------------------------------------------------------------------


class ModelTensors:
    """Tensors of a model as arrays."""

    def __init__(self, directory: str | None) -> None:
        self.directory = None if directory is None else os.path.realpath(directory)

    def array(self, tensor: Any) -> NDArray:
        """A tensor's values; raises ValueError if it is damaged or of a type that is not for weights."""
        name = f"tensor {text(tensor.name)!r}"
        if tensor.data_type not in TYPES:
            raise ValueError(f"{name}: expected real numbers or booleans of whole bytes, got type {tensor.data_type}")
        if any(size < 0 for size in tensor.dims) or len(tensor.dims) > 32:
            raise ValueError(f"{name}: expected at most 32 sizes of at least 0, got {list(tensor.dims)[:33]}")
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        expected = math.prod(tensor.dims) * dtype.itemsize
        if is_external(tensor):
            data = self._external(tensor, name, expected)
            tensor = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=data)
        if tensor.HasField("raw_data") and len(tensor.raw_data) != expected:
            raise ValueError(f"{name}: expected {expected} bytes, got {len(tensor.raw_data)}")
        try:
            return numpy_helper.to_array(tensor)
        except Exception as error:  # a number of values that the sizes do not say, and whatever else is damaged
            raise ValueError(f"{name}: expected values for sizes {list(tensor.dims)} ({error})") from error

    def file_of(self, tensor: Any) -> str | None:
        """The file of external data; None if there is none such in the model's directory."""
        location = text({entry.key: entry.value for entry in tensor.external_data}.get("location", ""))
        if self.directory is None or not location or "\0" in location:
            return None
        file = os.path.realpath(os.path.join(self.directory, location))
        return file if os.path.commonpath([file, self.directory]) == self.directory and os.path.isfile(file) else None

    def _external(self, tensor: Any, name: str, expected: int) -> bytes:
        """A tensor's bytes from their own file."""
        entries = {text(entry.key): text(entry.value) for entry in tensor.external_data}
        if self.directory is None:
            raise ValueError(f"{name}: expected its values in the model, got a file's name; give load the model's path")
        file = self.file_of(tensor)
        if file is None:
            location = entries.get("location", "")
            raise ValueError(f"{name}: expected a file in the model's directory for its values, got {location!r}")
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", expected))
        except ValueError:
            raise ValueError(f"{name}: expected numbers for offset and length of its values") from None
        size = os.stat(file).st_size
        if length != expected or not 0 <= offset <= size - length:
            raise ValueError(
                f"{name}: expected {expected} bytes in a file of {size}, got {length} from byte {offset} on"
            )
        with open(file, "rb") as data:
            data.seek(offset)
            return data.read(length)


def is_external(tensor: Any) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _tensors(graph: Any) -> Iterator[Any]:
    """All tensors of a graph and of the bodies in it."""
    graphs = [graph]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for node in graph.node:
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
            graphs += bodies(node)


# ---- Functions ----------------------------------------------------------------------------------------------------


def inlined(model: Any, budget: Budget) -> Any:
    """A model without functions: what they do is written where they are called."""
    if not model.functions:
        return model
    functions = {_key(f.domain, f.name, f.overload): f for f in model.functions}
    sizes: dict[Any, int] = {}

    def size(nodes: Any, depth: int) -> int:
        """Bytes of these nodes once functions are written where they are called."""
        if depth > MOST_NESTED:
            raise ValueError(f"functions: expected calls at most {MOST_NESTED} deep, got more")
        total = 0
        for node in nodes:
            key = _key(node.domain, node.op_type, node.overload)
            if key in functions and key not in sizes:
                sizes[key] = size(functions[key].node, depth + 1)
            total += node.ByteSize() + sizes.get(key, 0)
            total += sum(size(body.node, depth + 1) for body in bodies(node))
        return total

    budget.take(size(model.graph.node, 0))
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # of the library in C++
        raise ValueError(f"functions: expected ones that can be written where they are called ({error})") from error


def _key(domain: Any, name: Any, overload: Any) -> tuple[Any, Any, Any]:
    return ("" if is_onnx(domain) else domain, name, overload)
