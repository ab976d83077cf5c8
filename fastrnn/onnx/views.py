"""Nodes that only move axes, in NumPy: between recurrent nodes and their neighbours most are views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastrnn.onnx.constants import Constants, Unknown
from fastrnn.onnx.reading import is_onnx

__all__ = ["Move", "move"]

Move: TypeAlias = "Callable[[Sequence[NDArray]], list[NDArray]]"
"""What a node does: from its inputs that are no numbers of axes or sizes to its outputs."""


def move(node: Any, constants: Constants) -> Move | None:
    """What a node does to its first input, or to all of a Concat; None if it does not only move axes.

    What it says of axes and sizes must be constant.
    """
    kind = MOVES.get(node.op_type) if is_onnx(node.domain) and node.input and node.output else None
    return None if kind is None else kind(node, constants)


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _identity(node: Any, constants: Constants) -> Move | None:
    return lambda inputs: [inputs[0]]


def _transpose(node: Any, constants: Constants) -> Move | None:
    order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
    return lambda inputs: [inputs[0].transpose(order)]


def _squeeze(node: Any, constants: Constants) -> Move | None:
    axes = constants.ints(node, "axes", 1)
    return None if axes is None else lambda inputs: [inputs[0].squeeze(tuple(axes))]


def _unsqueeze(node: Any, constants: Constants) -> Move | None:
    axes = constants.ints(node, "axes", 1)
    return None if axes is None else lambda inputs: [np.expand_dims(inputs[0], tuple(axes))]


def _reshape(node: Any, constants: Constants) -> Move | None:
    shape = constants.ints(node, "shape", 1)
    if shape is None:
        return None
    keeps = 0 in shape and not _attribute(node, "allowzero", 0)

    def reshaped(inputs: Sequence[NDArray]) -> list[NDArray]:
        sizes = [inputs[0].shape[k] if n == 0 else n for k, n in enumerate(shape)] if keeps else shape
        return [inputs[0].reshape(sizes)]

    return reshaped


def _slice(node: Any, constants: Constants) -> Move | None:
    starts, ends = constants.ints(node, "starts", 1), constants.ints(node, "ends", 2)
    axes, steps = constants.ints(node, "axes", 3), constants.ints(node, "steps", 4)
    if starts is None or ends is None or len(starts) != len(ends):
        return None
    if any(step != 1 for step in steps or ()) or (steps is None and len(node.input) > 4 and node.input[4]):
        return None
    if axes is None:
        if len(node.input) > 3 and node.input[3]:
            return None
        axes = list(range(len(starts)))
    if len(axes) != len(starts):
        return None
    cuts = [(axis, slice(start, end)) for axis, start, end in zip(axes, starts, ends, strict=True)]

    def sliced(inputs: Sequence[NDArray]) -> list[NDArray]:
        index = [slice(None)] * inputs[0].ndim
        for axis, cut in cuts:
            index[axis] = cut
        return [inputs[0][tuple(index)]]

    return sliced


def _split(node: Any, constants: Constants) -> Move | None:
    axis, parts, sizes = _attribute(node, "axis", 0), len(node.output), constants.ints(node, "split", 1)
    if sizes is None and len(node.input) > 1 and node.input[1]:
        return None
    if sizes is not None and len(sizes) != parts:
        return None

    def split(inputs: Sequence[NDArray]) -> list[NDArray]:
        size = inputs[0].shape[axis]
        if size % parts if sizes is None else sum(sizes) != size:
            raise ValueError(f"expected {parts} parts of axis {axis} of {inputs[0].shape}")
        return np.split(inputs[0], parts if sizes is None else np.cumsum(sizes)[:-1], axis)

    return split


def _gather(node: Any, constants: Constants) -> Move | None:
    """One place of an axis."""
    axis, place = _attribute(node, "axis", 0), constants.value(node.input[1]) if len(node.input) > 1 else None
    if place is None or isinstance(place, Unknown) or place.dtype.kind not in "iu" or place.ndim:
        return None
    index = int(place)

    def gathered(inputs: Sequence[NDArray]) -> list[NDArray]:
        return [np.moveaxis(inputs[0], axis, 0)[index]]

    return gathered


def _concat(node: Any, constants: Constants) -> Move | None:
    axis = _attribute(node, "axis", 0)
    return lambda inputs: [np.concatenate(inputs, axis)]


MOVES: dict[str, Callable[[Any, Constants], Move | None]] = {
    "Identity": _identity, "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Reshape": _reshape,
    "Slice": _slice, "Split": _split, "Gather": _gather, "Concat": _concat,
}  # fmt: skip
