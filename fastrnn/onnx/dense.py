"""Pieces of a model that are no more than small linear layers and Relu, run by fastrnn instead of ONNX Runtime.

They stand before and after the recurrent layers of most models, and a call into ONNX Runtime takes them as long as a
step of a small recurrent layer.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from fastrnn import engines, validate
from fastrnn.onnx.reading import ModelTensors, is_onnx, text
from fastrnn.onnx.split import Piece

__all__ = ["Dense", "dense"]

MOST_VALUES = 1 << 20  # of the weights of a piece: with more, the time of a call into ONNX Runtime does not matter
FLOAT = onnx.TensorProto.FLOAT


class _Operation(NamedTuple):
    target: str
    source: str
    apply: Callable[[NDArray], NDArray]


class Dense:
    """A piece as operations on arrays of float32, one after the other."""

    def __init__(self, operations: list[_Operation], outputs: list[str]) -> None:
        self._operations, self._outputs = operations, outputs

    def run(self, values: dict[str, Any], states: Any, run_options: Any) -> None:
        made: dict[str, NDArray] = {}
        for target, source, apply in self._operations:
            made[target] = apply(made[source] if source in made else values[source])
        for name in self._outputs:
            values[name] = made[name]


def dense(piece: Piece, types: dict[str, Any], tensors: ModelTensors) -> Dense | None:
    """Return the piece, if it is one of these, and add the types of its outputs to `types`; else None."""
    initializers = {tensor.name: tensor for tensor in piece.proto.graph.initializer}
    uses = Counter(itertools.chain(piece.outputs, *(node.input for node in piece.nodes)))
    known = {name for name in piece.inputs if _is_float(types.get(name))}
    biases = {  # of what they are added to
        value: (constant, node.output[0])
        for node in piece.nodes
        if node.op_type == "Add" and is_onnx(node.domain)
        for value, constant in (node.input, reversed(node.input))
        if uses[value] == 1 and constant in initializers
    }
    operations: list[_Operation] = []
    fused, size = set(), 0
    for node in piece.nodes:
        op_type = text(node.op_type)
        if op_type == "Add" and node.output[0] in fused:
            continue
        if not is_onnx(node.domain) or op_type not in ("Relu", "MatMul"):
            return None
        source, target = node.input[0], node.output[0]
        if source not in known:
            return None
        if op_type == "Relu":
            in_place = source not in piece.inputs and uses[source] == 1
            operations.append(_Operation(target, source, _rectified_in_place if in_place else _rectified))
        elif _shape(initializers.get(node.input[1]), 2):
            weight, bias = tensors.array(initializers[node.input[1]]), None
            constant, added = biases.get(target, ("", ""))
            if _shape(initializers.get(constant), 1) == weight.shape[1:]:
                bias, target = tensors.array(initializers[constant]), added
                fused.add(added)
            size += weight.size
            operations.append(_Operation(target, source, _linear(weight, bias, text(node.input[1]))))
        else:
            return None
        known.add(target)
    if size > MOST_VALUES:
        return None
    types.update((name, onnx.helper.make_tensor_type_proto(FLOAT, None)) for name in piece.outputs)
    return Dense(operations, piece.outputs)


def _is_float(kind: Any) -> bool:
    return kind is not None and kind.tensor_type.elem_type == FLOAT


def _shape(tensor: Any, axes: int) -> tuple[int, ...]:
    """The shape of a constant of float32 with so many axes, none of which is empty; else ()."""
    if tensor is None or tensor.data_type != FLOAT or len(tensor.dims) != axes or 0 in tensor.dims:
        return ()
    return tuple(tensor.dims)


def _linear(weight: NDArray, bias: NDArray | None, name: str) -> Callable[[NDArray], NDArray]:
    """x (..., I) -> x W + b (..., O), for W (I, O)."""
    I, O = weight.shape
    multiply = engines.current().operations.packed_linear(np.ascontiguousarray(weight.T), bias)

    def apply(x: NDArray) -> NDArray:
        if x.ndim == 0 or x.shape[-1] != I:
            raise ValueError(f"MatMul with {name}: expected (..., {I}), got shape {x.shape}")
        rows = x.size // I
        return multiply(validate.contiguous(x.reshape(rows, I))).reshape(*x.shape[:-1], O)

    return apply


def _rectified(x: NDArray) -> NDArray:
    return np.maximum(x, np.float32(0))


def _rectified_in_place(x: NDArray) -> NDArray:
    return np.maximum(x, np.float32(0), out=x)
