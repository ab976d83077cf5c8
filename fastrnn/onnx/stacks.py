"""Which recurrent nodes of a graph are one stack: a node's whole output, in its order, is what the next one reads.

Between the two lie nodes that move axes: Y has one for directions, X has none. Every exporter writes them in its own
way, so the axes are followed by name from node to node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastrnn.onnx.constants import Constants, Unknown
from fastrnn.onnx.reading import bodies, is_onnx

__all__ = ["Recurrent", "names_in", "next_in_stack"]

# Stand for the numbers of steps and rows, which a model does not say, in shapes that it computes: primes larger than
# any size, so that nothing else is taken for them.
SIZES = {"T": 1_000_003, "B": 999_983, "1": 1}


class Recurrent(NamedTuple):
    """What is known of a recurrent node."""

    directions: int
    batch_first: bool
    hidden_size: int


class _Series(NamedTuple):
    """A node's output on its way."""

    source: str  # Y's name
    axes: tuple[str, ...]  # T, B, D, H; F: H of each direction in turn; 1
    direction: int | None = None  # which one, if it is one of two


def next_in_stack(graph: Any, constants: Constants, recurrent: Mapping[str, Recurrent]) -> dict[str, str]:
    """Return whose X a node's Y is, where nobody else reads that Y; nodes are named by their Y, as `recurrent` is."""
    return _Walk(graph, constants, recurrent).found()


class _Walk:
    def __init__(self, graph: Any, constants: Constants, recurrent: Mapping[str, Recurrent]) -> None:
        self._graph, self._recurrent = graph, recurrent
        self._constants = constants.inside(graph)  # some of its own, for it supposes sizes
        self._series: dict[str, _Series] = {}
        self._readers: dict[str, list[str]] = {}  # by the source, the nodes whose X it is; "" for any other reader

    def found(self) -> dict[str, str]:
        for node in self._graph.node:
            self._node(node)
        self._read_by_others(value.name for value in self._graph.output)
        pairs = {source: readers[0] for source, readers in self._readers.items() if len(readers) == 1}
        return {source: reader for source, reader in pairs.items() if reader}

    def _node(self, node: Any) -> None:
        y = node.output[0] if node.output else ""
        for body in bodies(node):
            self._read_by_others(names_in(body))
        read = [name for name in node.input if name in self._series]
        if y in self._recurrent and len(node.input):
            self._read_by_others(node.input[1:])
            kind, x = self._recurrent[y], self._series.get(node.input[0])
            if x is not None:
                order = ("B", "T", "F") if kind.batch_first else ("T", "B", "F")
                fits = x.axes == order and x.direction is None
                self._readers.setdefault(x.source, []).append(y if fits else "")
            unit, last = ("1", "F") if kind.directions == 1 else ("D", "H")
            axes = ("B", "T", unit, last) if kind.batch_first else ("T", unit, "B", last)
            self._series[y] = _Series(y, axes)
        elif read and node.op_type == "Shape":
            shape = [self._size(axis, self._series[read[0]]) for axis in self._series[read[0]].axes]
            attributes = {a.name: a.i for a in node.attribute}
            part = shape[attributes.get("start", 0) : attributes.get("end", len(shape))]
            self._constants.suppose(y, np.array(part, np.int64))
        elif read:
            moved = self._moved(node, [self._series.get(name) for name in node.input]) if is_onnx(node.domain) else None
            if moved is None:
                self._read_by_others(read)
            else:
                self._series.update(zip(node.output, moved, strict=False))

    def _read_by_others(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._series:
                self._readers.setdefault(self._series[name].source, []).append("")

    def _size(self, axis: str, series: _Series) -> int:
        kind = self._recurrent[series.source]
        sizes = {"D": kind.directions, "H": kind.hidden_size, "F": kind.directions * kind.hidden_size}
        return SIZES[axis] if axis in SIZES else sizes[axis]

    # ---- Nodes that move axes: each gives its outputs, or None if it does something else ----

    def _moved(self, node: Any, inputs: list[_Series | None]) -> list[_Series] | None:
        x = inputs[0]
        if node.op_type == "Concat":
            return self._joined(node, inputs)
        if x is None or any(inputs[1:]):
            return None
        if node.op_type == "Identity" or (node.op_type == "Dropout" and self._is_off(node)):
            return [x]
        move = {
            "Transpose": self._transposed, "Squeeze": self._squeezed, "Unsqueeze": self._unsqueezed,
            "Reshape": self._reshaped, "Slice": self._sliced, "Split": self._split,
        }.get(node.op_type)  # fmt: skip
        return None if move is None else move(node, x)

    def _transposed(self, node: Any, x: _Series) -> list[_Series] | None:
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(reversed(range(len(x.axes)))))
        if sorted(order) != list(range(len(x.axes))):
            return None
        return [x._replace(axes=tuple(x.axes[k] for k in order))]

    def _squeezed(self, node: Any, x: _Series) -> list[_Series] | None:
        axes = _places(self._constants.ints(node, "axes", 1), len(x.axes))
        if not axes or any(x.axes[k] != "1" for k in axes):
            return None
        return [x._replace(axes=tuple(axis for k, axis in enumerate(x.axes) if k not in axes))]

    def _unsqueezed(self, node: Any, x: _Series) -> list[_Series] | None:
        given = self._constants.ints(node, "axes", 1)
        axes = _places(given, len(x.axes) + len(given or ()))
        if not axes or len(set(axes)) != len(axes):
            return None
        new = list(x.axes)
        for k in sorted(axes):
            new.insert(k, "1")
        return [x._replace(axes=tuple(new))]

    def _reshaped(self, node: Any, x: _Series) -> list[_Series] | None:
        """Without axes of one, and with the directions side by side: what most exporters write for more than one."""
        shape = self._constants.ints(node, "shape", 1)
        axes = tuple(axis for axis in x.axes if axis != "1")
        axes = (*axes[:-2], "F") if axes[-2:] == ("D", "H") else axes
        if shape is None or len(shape) != len(axes) or shape.count(-1) > 1:
            return None
        copies = not any(a.name == "allowzero" and a.i for a in node.attribute)
        for k, (axis, size) in enumerate(zip(axes, shape, strict=True)):
            copied = size == 0 and copies and k < len(x.axes) and x.axes[k] == axis
            fixed = size > 0 and axis in ("T", "B")  # a model that was exported for one T, one B or both
            if not (size in (-1, self._size(axis, x)) or copied or fixed):
                return None
        return [x._replace(axes=axes)]

    def _sliced(self, node: Any, x: _Series) -> list[_Series] | None:
        """One of two directions."""
        starts, ends = self._constants.ints(node, "starts", 1), self._constants.ints(node, "ends", 2)
        axes, steps = self._constants.ints(node, "axes", 3), self._constants.ints(node, "steps", 4)
        if starts is None or ends is None or axes is None or len(starts) != 1 or len(ends) != 1 or len(axes) != 1:
            return None
        places = _places(axes, len(x.axes))
        if not places or x.axes[places[0]] != "D" or (steps or [1]) != [1]:
            return None
        taken = range(2)[max(starts[0], -2) : min(ends[0], 2)]
        return [_one_direction(x, taken[0])] if len(taken) == 1 else None

    def _split(self, node: Any, x: _Series) -> list[_Series] | None:
        """The two directions."""
        places = _places([next((a.i for a in node.attribute if a.name == "axis"), 0)], len(x.axes))
        if not places or x.axes[places[0]] != "D" or len(node.output) != 2:
            return None
        if (self._constants.ints(node, "split", 1) or [1, 1]) != [1, 1]:
            return None
        return [_one_direction(x, direction) for direction in (0, 1)]

    def _joined(self, node: Any, inputs: list[_Series | None]) -> list[_Series] | None:
        """Both directions side by side."""
        if len(inputs) != 2 or inputs[0] is None or inputs[1] is None:
            return None
        first, second = inputs[0], inputs[1]
        places = _places([next((a.i for a in node.attribute if a.name == "axis"), 0)], len(first.axes))
        if second != first._replace(direction=1) or first.direction != 0 or not places or first.axes[places[0]] != "H":
            return None
        axes = tuple("F" if axis == "H" else axis for axis in first.axes)
        return [_Series(first.source, axes)]

    def _is_off(self, node: Any) -> bool:
        """Whether a Dropout does nothing: in training it would be told so by its third input."""
        if len(node.input) < 3 or not node.input[2]:
            return True
        training = self._constants.value(node.input[2])
        return not isinstance(training, Unknown) and not training.any()


def _one_direction(x: _Series, direction: int) -> _Series:
    return _Series(x.source, tuple("1" if axis == "D" else axis for axis in x.axes), direction)


def _places(axes: list[int] | None, ndim: int) -> list[int] | None:
    """Axes counted from the front; None if one does not exist."""
    if axes is None or any(not -ndim <= axis < ndim for axis in axes):
        return None
    return [axis % ndim for axis in axes]


def names_in(graph: Any) -> set[str]:
    """All names that a body and those in it read."""
    names, graphs = set(), [graph]
    while graphs:
        graph = graphs.pop()
        names |= {value.name for value in graph.output}
        for node in graph.node:
            names |= set(node.input)
            graphs += bodies(node)
    return names
