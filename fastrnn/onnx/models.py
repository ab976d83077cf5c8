"""Recurrent nodes of ONNX models as frozen layers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from fastrnn import engines
from fastrnn.frozen import Frozen
from fastrnn.onnx import kernels, spec

__all__ = ["load"]

log = logging.getLogger("fastrnn.onnx")

WEIGHTS = ("W", "R", "B", "P")


def load(model: Any) -> dict[str, Frozen]:
    """Return a model's recurrent nodes with constant weights as frozen layers.

    Parameters
    ----------
    model : onnx.ModelProto or path-like
        A model, or the file of one.

    Returns
    -------
    dict of str to Frozen
        By the node's name or, where it has none, that of its first output; with "#2" and so on behind a name that was
        there already. The bodies of Loop, If and Scan and the model's functions are searched too. A layer takes and
        gives arrays as any frozen layer, y (T, B, D*H) and states (D, B, H), with B before T in x and y where the node
        has layout=1. A node's own initial states and sequence_lens are not part of it. float16 and bfloat16 weights
        give float32 layers. A node with direction="reverse" is a layer that runs from the end only.

    Raises
    ------
    TypeError
        If it is neither a model nor a path.
    ValueError
        If a node's weights or attributes are not what the specification says. Nodes whose weights are not constant, or
        that the kernels do not have, are left out; the logger "fastrnn.onnx" warns of each and says why.
    OSError
        If the file cannot be read.
    """
    if isinstance(model, (str, os.PathLike)):
        model = onnx.load(os.fspath(model))
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"model: expected an onnx.ModelProto or a path, got {type(model).__name__}")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    layers: dict[str, Frozen] = {}
    for node, constants in _recurrent(model.graph, _Constants(opsets)):
        name = _name(node, layers)
        arrays = {role: constants.value(source) for role, source in _inputs(node).items() if role in WEIGHTS}
        loose = [role for role, value in arrays.items() if value is None]
        if loose:
            log.warning("%s %s is left out: %s not constant", node.op_type, name, ", ".join(loose))
            continue
        try:
            layers[name] = _frozen(node, {role: value for role, value in arrays.items() if value is not None})
        except _NotServedError as error:
            log.warning("%s %s is left out: the kernels do not have %s", node.op_type, name, error)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{node.op_type} {name}: {error}") from error
    return layers


class _NotServedError(Exception):
    """A node that the kernels do not have."""


def _frozen(node: onnx.NodeProto, arrays: dict[str, NDArray]) -> Frozen:
    """A layer of a node and its weights, which are checked as a run with one step and no rows would be."""
    attrs = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    checked = spec.read_node(node.op_type, attrs)
    w = arrays["W"]
    x = np.zeros((0, 1, w.shape[2]) if checked.batch_first else (1, 0, w.shape[2]), w.dtype) if w.ndim == 3 else w
    call = spec.read_call(checked, {"X": x, **arrays})
    obstacle = kernels.obstacle(checked, call.x.dtype)
    if obstacle:
        raise _NotServedError(obstacle)
    stack = kernels.stack_of(call)
    if len(set(stack.cells)) > 1:
        raise _NotServedError("layers whose directions have different activations")
    return Frozen(stack, engines.current(), kernels.weights_of(call, stack))


# ---- Graphs -------------------------------------------------------------------------------------------------------


class _Constants:
    """Values that do not depend on a model's inputs, seen from one graph: its own and those of graphs around it."""

    def __init__(self, opsets: dict[str, int], outer: _Constants | None = None) -> None:
        self._opsets, self._outer = opsets, outer
        self._values: dict[str, NDArray | None] = {}  # None: not constant
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._nodes: dict[str, onnx.NodeProto] = {}  # by their outputs

    def inside(self, graph: onnx.GraphProto) -> _Constants:
        """The constants as a graph inside this one sees them."""
        inner = _Constants(self._opsets, self)
        inner._values.update({value.name: None for value in graph.input})
        inner._tensors.update({tensor.name: tensor for tensor in graph.initializer})
        inner._nodes.update({name: node for node in graph.node for name in node.output if name})
        return inner

    def value(self, name: str) -> NDArray | None:
        """The value, or None if it is not constant."""
        # Initializers first: one that is an input too is a default that a caller may replace. Exporters wrote all so
        # once, and a frozen layer is what the model holds.
        if name in self._tensors:
            return numpy_helper.to_array(self._tensors[name])
        if name not in self._values:
            if name not in self._nodes:
                return None if self._outer is None else self._outer.value(name)
            node = self._nodes[name]
            self._values.update(dict(zip(node.output, self._evaluated(node), strict=False)))
        return self._values[name]

    def _evaluated(self, node: onnx.NodeProto) -> list[Any]:
        """What a node gives, as exporters leave weights behind a Transpose, Concat or Cast."""
        nothing: list[Any] = [None] * len(node.output)
        has_body = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
        if has_body or node.domain not in ("", "ai.onnx") or (not node.input and node.op_type != "Constant"):
            return nothing  # what has no inputs and is no Constant is random
        feeds = {}
        for source in filter(None, node.input):
            feeds[source] = self.value(source)
            if feeds[source] is None:
                return nothing
        return ReferenceEvaluator(node, opsets=self._opsets).run(None, feeds)


def _recurrent(graph: onnx.GraphProto, outer: _Constants) -> Iterator[tuple[onnx.NodeProto, _Constants]]:
    """Recurrent nodes of a graph and of the bodies in it, with the constants that they see."""
    constants = outer.inside(graph)
    for node in graph.node:
        if node.domain in ("", "ai.onnx") and node.op_type in spec.INPUTS:
            yield node, constants
        for attribute in node.attribute:
            for body in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                yield from _recurrent(body, constants)


def _inputs(node: onnx.NodeProto) -> dict[str, str]:
    """What a node's inputs are to it -> what the graph calls them."""
    return {role: name for role, name in zip(spec.INPUTS[node.op_type], node.input, strict=False) if name}


def _name(node: onnx.NodeProto, taken: dict[str, Frozen]) -> str:
    name = node.name or next(filter(None, node.output), node.op_type)
    count = 2
    while name in taken:
        name, count = f"{name.split('#')[0]}#{count}", count + 1
    return name
