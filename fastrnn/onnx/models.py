"""Recurrent nodes of ONNX models as frozen layers: `load`, and what a session knows of a model's nodes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fastrnn import engines, validate
from fastrnn.engines.precision import PRECISIONS, Int8
from fastrnn.formats.reading import refusing
from fastrnn.frozen import Frozen, checked_precision
from fastrnn.onnx import kernels, reading, spec
from fastrnn.onnx.constants import Constants, Unknown, is_view
from fastrnn.onnx.reading import bodies, text
from fastrnn.onnx.stacks import Recurrent, next_in_stack
from fastrnn.stack import Stack

__all__ = ["Layer", "Loading", "NotServedError", "Stacks", "domain", "load", "name_of", "opened_model"]

log = logging.getLogger("fastrnn.onnx")

WEIGHTS = ("W", "R", "B", "P", *spec.QUANTIZATION)
STATES = ("initial_h", "initial_c")


def load(model: Any, *, precision: str | None = None, max_bytes: int | None = None) -> dict[str, Frozen]:
    """Return a model's recurrent nodes with constant weights as frozen layers.

    Parameters
    ----------
    model : onnx.ModelProto or path-like
        A model, or the file of one, in ONNX's binary format. Tensors in files of their own must lie in the model's
        directory.
    precision : {"float32", "bfloat16", "int8"}, optional
        What weights are frozen to, as by `freeze(precision=)`. Default: what they are in the model. With "int8",
        weights that the model has as integers behind DequantizeLinear are not rounded again, where each row has one
        scale and they fit into int8.
    max_bytes : int, optional
        How much memory the layers, and what is computed for them, may take. Default: 16 times the size of the model's
        files, and at least 64 MiB.

    Returns
    -------
    dict of str to Frozen
        In the graph's order, by the node's name or, where it has none, that of its first output; with "#2" and so on
        behind a name that was there already. The bodies of Loop, If and Scan and the model's functions are searched
        too. A layer takes and gives arrays as any frozen layer, y (T, B, D*H) and states (L*D, B, H), with B before T
        in x and y where the node has layout=1. A node's own initial states and sequence_lens are not part of it.
        float16 and bfloat16 weights give float32 layers. A node with direction="reverse" is a layer that runs from the
        end only. ONNX Runtime's DynamicQuantizeLSTM gives a layer of precision "int8" that has the node's own integers
        and scales, or one of "float32" if an integer less its zero point is not in -128..127. It rounds activations row
        by row, as every frozen layer does, and not as ONNX Runtime does.

        Nodes are one layer, by the name of the lowest, where each one's output is read by the next one alone and all
        are alike. Layers in the two branches of an If are one layer, by the name of the first, where all they are made
        of is equal. The logger "fastrnn.onnx" says so at level INFO.

    Raises
    ------
    TypeError
        If it is neither a model nor a path, or `precision` is no str.
    ValueError
        If `precision` is another one, or the model has float64 layers, which have no other. If the file is damaged or
        no model, a tensor's file lies outside the model's directory, or a node's weights or attributes are not what the
        specification says. The message names the path. Nodes whose weights are not constant or take too much memory, or
        that the kernels do not have, are left out; the logger "fastrnn.onnx" warns of each and says why. Constant are
        tensors, and what deterministic operators make of them: those that move, convert, scale or repeat numbers.
    OSError
        If a file cannot be read.
    """
    opened, name = opened_model(model, precision, max_bytes)
    with refusing(name):
        return Loading(opened, precision, max_bytes).layers()


def opened_model(model: Any, precision: Any, max_bytes: Any) -> tuple[reading.Model, Any]:
    """Check the arguments of `load`; return the model, and what errors call it."""
    is_path = isinstance(model, (str, os.PathLike))
    if not is_path and not isinstance(model, onnx.ModelProto):
        raise TypeError(f"model: expected an onnx.ModelProto or a path, got {type(model).__name__}")
    if max_bytes is not None:
        validate.size("max_bytes", max_bytes, minimum=0)
    if precision is not None:
        validate.choice("precision", precision, tuple(PRECISIONS))
    return (reading.read(model), model) if is_path else (reading.Model(model, None), "model")


class NotServedError(Exception):
    """A node that is left out, and why."""


@dataclass(frozen=True)
class Layer:
    """A node, or several that are a stack."""

    nodes: tuple[Any, ...]  # the lowest first
    names: tuple[str, ...]  # of its nodes
    stack: Stack
    calls: tuple[spec.Call, ...]  # each node with its weights
    lengths: str  # the name of sequence_lens; empty if there are none
    precision: tuple[str, ...]  # of each node

    @cached_property
    def contents(self) -> tuple[Stack, tuple[str, ...], bytes]:
        """What two layers have in common that are the same."""
        digest = sha256()
        for call in self.calls:
            for d in range(len(call.node.reversed)):
                for name, a in call.weights(d).items():
                    digest.update(f"{name} {a.shape} ".encode())
                    for array in (a.values, a.scales) if isinstance(a, Int8) else (a,):
                        digest.update(np.ascontiguousarray(array).tobytes())
        return self.stack, self.precision, digest.digest()

    def under(self, upper: Layer) -> Layer | None:
        """This layer with another one upon it; None if they are not alike."""
        bottom, top = self.stack.cells[-1], upper.stack.cells[0]
        alike = (
            replace(top, input_size=bottom.input_size) == bottom
            and top.input_size == self.stack.output_size
            and upper.stack.directions == self.stack.directions
            and upper.stack.batch_first == self.stack.batch_first
            and upper.lengths == self.lengths
        )
        if not alike:
            return None
        stack = Stack(self.stack.cells + upper.stack.cells, self.stack.directions, self.stack.batch_first)
        precision = self.precision + upper.precision
        nodes, names = self.nodes + upper.nodes, self.names + upper.names
        return Layer(nodes, names, stack, self.calls + upper.calls, self.lengths, precision)


class Stacks:
    """The layers of a graph, by their Y, with those as one that are a stack. Each is given once."""

    def __init__(self, graph: Any, outer: Constants, by_y: Mapping[str, Layer]) -> None:
        self._by_y = by_y
        kinds = {
            y: Recurrent(len(layer.stack.directions), layer.stack.batch_first, layer.stack.cells[0].hidden_size)
            for y, layer in by_y.items()
        }
        self._upper = next_in_stack(graph, outer, kinds) if len(kinds) > 1 else {}
        self._gone: set[str] = set()

    def upon(self, y: str) -> Layer | None:
        """The layer of this Y with those that are a stack upon it; None if it was given before."""
        if y in self._gone:
            return None
        self._gone.add(y)
        layer = self._by_y[y]
        while (top := self._upper.get(y, y)) not in self._gone:
            stack = layer.under(self._by_y[top])
            if stack is None:
                break
            y, layer = top, stack
            self._gone.add(y)
        return layer


class Loading:
    """One reading of a model's recurrent nodes."""

    def __init__(self, model: reading.Model, precision: str | None, max_bytes: int | None) -> None:
        self._precision = precision
        self._budget = model.budget(max_bytes)
        self.proto = reading.inlined(model.proto, self._budget)
        opset = max((o.version for o in model.proto.opset_import if reading.is_onnx(o.domain)), default=1)
        self._tensors = model.tensors
        self.constants = Constants(model.tensors, opset, self._budget)
        # Calls by what a node is made of, so that nodes that share tensors share memory; and these arrays.
        self._calls: dict[Any, tuple[spec.Call, dict[str, NDArray]]] = {}
        self._in_precisions: dict[int, spec.Call] = {}  # by the id of a call, the same with other weights
        self._seen = False

    def layers(self) -> dict[str, Frozen]:
        found = self._layers(self.proto.graph, self.constants, 0)
        if not self._seen:
            log.warning("the model has no RNN, GRU or LSTM")
        frozen: dict[Any, Frozen] = {}
        named: dict[str, Frozen] = {}
        counts: dict[str, int] = {}
        for layer in found:
            key = (layer.stack, tuple(map(id, layer.calls)))
            try:
                if key not in frozen:
                    frozen[key] = self.frozen(layer)
            except ValueError as error:
                _leave_out(layer.calls[0].node.op_type, ", ".join(layer.names), error)
                continue
            name = layer.names[0]
            while name in named:
                counts[layer.names[0]] = counts.get(layer.names[0], 1) + 1
                name = f"{layer.names[0]}#{counts[layer.names[0]]}"
            named[name] = frozen[key]
        return named

    def tensor(self, tensor: Any) -> NDArray:
        """A tensor of the model; raises ValueError if it is damaged."""
        return self._tensors.array(tensor)

    def frozen(self, layer: Layer) -> Frozen:
        """The layer with its weights packed."""
        self._budget.take(2 * sum(a.nbytes for call in layer.calls for a in _arrays(call)))  # as they are, and packed
        parts = [kernels.weights_of(call, kernels.stack_of(call)) for call in layer.calls]
        return Frozen(
            layer.stack, engines.current(), [p for of_one in parts for p in of_one], precision=layer.precision
        )

    # ---- Graphs ----

    def _layers(self, graph: Any, outer: Constants, depth: int) -> list[Layer]:
        """The layers of a graph and of the bodies in it, in their order."""
        if depth > reading.MOST_NESTED:
            raise ValueError(f"expected graphs nested at most {reading.MOST_NESTED} deep, got more")
        constants = outer.inside(graph)
        found: list[tuple[str, list[Layer]]] = []  # by Y, what each node adds
        for node in graph.node:
            if node.op_type in spec.INPUTS and domain(node) == spec.domain_of(node.op_type):
                found.append((node.output[0] if node.output else "", self._of_node(node, constants)))
            elif any(kind in text(node.op_type) for kind in spec.INPUTS):
                whose = "no operator of ONNX" if reading.is_onnx(node.domain) else f"an operator of {text(node.domain)}"
                _leave_out(text(node.op_type), name_of(node), f"it is {whose}")
            inside = [self._layers(body, constants, depth + 1) for body in bodies(node)]
            if inside:
                found.append(("", _once(inside) if node.op_type == "If" else list(chain.from_iterable(inside))))
        return self._joined(graph, outer, found)

    def _joined(self, graph: Any, outer: Constants, found: list[tuple[str, list[Layer]]]) -> list[Layer]:
        """The layers with those as one that are a stack."""
        by_y = {y: layers[0] for y, layers in reversed(found) if y and layers}  # of a name used twice the first
        stacks = Stacks(graph, outer, by_y)
        joined: list[Layer] = []
        for y, layers in found:
            if not layers or layers[0] is not by_y.get(y):  # a body, a node that is left out, or a name used twice
                joined += layers
            elif (layer := stacks.upon(y)) is not None:
                if len(layer.names) > 1:
                    log.info("%s are one layer", ", ".join(layer.names))
                joined.append(layer)
        return joined

    # ---- Nodes ----

    def _of_node(self, node: Any, constants: Constants) -> list[Layer]:
        """A node's layer, or none if it is left out."""
        self._seen = True
        op_type, name = text(node.op_type), name_of(node)
        try:
            layer = self.checked(node, constants)
        except NotServedError as error:
            _leave_out(op_type, name, error)
            return []
        except (TypeError, ValueError) as error:
            raise ValueError(f"{op_type} {name}: {error}") from error
        for role, source in zip(spec.INPUTS[op_type], node.input, strict=False):
            state = constants.value(source) if role in STATES and source else None
            if isinstance(state, np.ndarray) and state.any():
                log.warning("%s %s: its %s is not zero, and not part of the layer", op_type, name, role)
        return [layer]

    def checked(self, node: Any, constants: Constants) -> Layer:
        """A node and its weights, which are checked as a run with one step and no rows would be.

        Raises `NotServedError` for what the kernels do not have, and TypeError or ValueError for what the specification
        does not.
        """
        name = name_of(node)
        attrs = {text(attribute.name): onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        checked = spec.read_node(node.op_type, attrs)
        sources = {role: source for role, source in zip(spec.INPUTS[node.op_type], node.input, strict=False) if source}
        arrays = {role: constants.value(source) for role, source in sources.items() if role in WEIGHTS}
        loose = [f"{role} is not constant: {v.reason}" for role, v in arrays.items() if isinstance(v, Unknown)]
        if loose:
            raise NotServedError("; ".join(loose))
        call = self._call(checked, {role: a for role, a in arrays.items() if isinstance(a, np.ndarray)})
        obstacle = kernels.obstacle(checked, call.x.dtype)
        if obstacle:
            raise NotServedError(f"the kernels do not have {obstacle}")
        stack = kernels.stack_of(call)
        if len(set(stack.cells)) > 1:
            raise NotServedError("the kernels do not have layers whose directions have different activations")
        precision = self._precision
        if checked.op_type in spec.QUANTIZED and isinstance(call.w, np.ndarray):
            log.info("%s %s is float32: less their zero points its weights need more than 8 bits", node.op_type, name)
        if precision is None:
            precision = Int8.precision if isinstance(call.w, tuple) else stack.dtype.name
        else:
            checked_precision(stack, precision)
            call = self._in_precision(precision, call, constants, sources)
        return Layer((node,), (name,), stack, (call,), text(sources.get("sequence_lens", "")), (precision,))

    def _call(self, node: spec.Node, arrays: dict[str, NDArray]) -> spec.Call:
        key = (node, *((role, id(a)) for role, a in arrays.items()))
        if key not in self._calls:
            w = arrays.get("W", np.zeros((0, 0, 0), np.float32))
            quantized = node.op_type in spec.QUANTIZED
            if not quantized and w.dtype.name not in spec.DTYPES:
                raise TypeError(f"W: expected an array of {', '.join(spec.DTYPES)}, got {w.dtype}")
            if w.ndim != 3:
                raise ValueError(f"W: expected num_directions and two more axes, got shape {w.shape}")
            I = w.shape[1 if quantized else 2]
            x = np.zeros((0, 1, I) if node.batch_first else (1, 0, I), np.float32 if quantized else w.dtype)
            call = spec.read_call(node, {"X": x, **arrays})
            try:
                self._budget.take(
                    sum(a.nbytes for a in _arrays(call) if isinstance(a, Int8) or not is_view(a, arrays.values()))
                )
            except ValueError as error:
                raise NotServedError(str(error)) from None
            self._calls[key] = call, arrays
        return self._calls[key][0]

    def _in_precision(
        self, precision: str, call: spec.Call, constants: Constants, sources: dict[str, str]
    ) -> spec.Call:  # fmt: skip
        """The call with its integers, or with those that DequantizeLinear makes its weights of, if int8 is wanted."""
        if id(call) not in self._in_precisions:
            other = call
            if precision != Int8.precision:
                other = call.widened()
            elif isinstance(call.w, np.ndarray) and isinstance(call.r, np.ndarray):
                w = _integers(constants.dequantized(sources["W"]), call.w.shape)
                r = _integers(constants.dequantized(sources["R"]), call.r.shape)
                other = call if w is None or r is None else replace(call, w=w, r=r)
            self._in_precisions[id(call)] = other
        return self._in_precisions[id(call)]


def _integers(found: tuple[list[NDArray], int] | None, sizes: tuple[int, ...]) -> tuple[Int8, ...] | None:
    """What a DequantizeLinear makes weights (D, N, K) of, as matrices of int8; None if they are none."""
    if found is None or len(found[0]) not in (2, 3):
        return None
    integers, scale, zero = (*found[0], np.zeros_like(found[0][1], np.int8))[:3]
    axis = 0 if scale.size == 1 else found[1] % 3  # where there is a scale for each: of directions, or of rows
    if integers.dtype.name not in ("int8", "uint8") or integers.shape != sizes or scale.dtype != np.float32:
        return None
    if axis == 2 or scale.size not in (1, sizes[axis]) or zero.size != scale.size or not np.isfinite(scale).all():
        return None
    shape = (-1, 1) if axis == 0 else (1, -1)
    return spec.without_zero_points(integers, scale.reshape(shape), zero.reshape(shape))


def _arrays(call: spec.Call) -> list[Any]:
    """What a node's weights lie in: arrays, and matrices of integers."""
    weights = [call.weights(d).values() for d in range(len(call.node.reversed))]
    return [a for of_one in weights for a in of_one]


def _once(branches: Sequence[list[Layer]]) -> list[Layer]:
    """The layers of an If's branches, those that are in several of them once."""
    layers: list[Layer] = []
    for branch in branches:
        others: dict[Any, list[Layer]] = {}
        for layer in reversed(layers):
            others.setdefault(layer.contents, []).append(layer)
        for layer in branch:
            twins = others.get(layer.contents)
            if twins:
                names = ", ".join(twins.pop().names), ", ".join(layer.names)
                log.info("%s and %s, in branches of an If, are one layer", *names)
            else:
                layers.append(layer)
    return layers


def _leave_out(op_type: str, name: str, why: object) -> None:
    log.warning("%s %s is left out: %s", op_type, name, why)


def domain(node: Any) -> str:
    """The domain of a node's operator; ONNX's own has no name."""
    return "" if reading.is_onnx(node.domain) else text(node.domain)


def name_of(node: Any) -> str:
    return text(node.name or next(filter(None, node.output), node.op_type))
