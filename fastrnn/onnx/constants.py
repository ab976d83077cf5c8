"""What is constant in a model: tensors, and what deterministic operators make of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from fastrnn.formats.reading import Budget
from fastrnn.onnx.reading import ModelTensors, is_onnx, text

__all__ = ["Constants", "Unknown", "is_view"]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that is not constant, and why it is not."""

    reason: str


Inputs: TypeAlias = "list[NDArray | None]"


# ---- Operators ----------------------------------------------------------------------------------------------------


def _ints(a: NDArray | None) -> list[int]:
    return [] if a is None else [int(n) for n in a.reshape(-1)]


def _as_inputs(node: Any, inputs: Inputs) -> int:
    return sum(a.size for a in inputs if a is not None)


def _broadcast(node: Any, inputs: Inputs) -> int:
    return math.prod(np.broadcast_shapes(*(a.shape for a in inputs if a is not None)))


def _expand(node: Any, inputs: Inputs) -> int:
    x, shape = inputs
    assert x is not None
    return max(x.size, 1) * max(math.prod(_ints(shape)), 1)


def _tile(node: Any, inputs: Inputs) -> int:
    x, repeats = inputs
    assert x is not None
    return x.size * math.prod(_ints(repeats))


def _range(node: Any, inputs: Inputs) -> int:
    start, limit, delta = (float(a.item()) for a in inputs if a is not None)
    return max(math.ceil((limit - start) / delta), 0)


def _gather(node: Any, inputs: Inputs) -> int:
    x, indices = inputs
    assert x is not None
    assert indices is not None
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return x.size // max(x.shape[axis], 1) * indices.size


def _matmul(node: Any, inputs: Inputs) -> int:
    a, b = inputs
    assert a is not None
    assert b is not None
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
    return math.prod((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *rows, *columns))


# The operators that are computed, and how many elements each gives at most. All are deterministic. They are those that
# exporters, converters and quantisers put between stored weights and a node. Views take no memory of their own.
_VIEW = dict.fromkeys(("Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"))
_EACH = dict.fromkeys(
    ("Abs", "Cast", "Concat", "DequantizeLinear", "Exp", "Flatten", "Log", "Neg", "QuantizeLinear", "Reciprocal",
     "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Shape", "Sigmoid", "Size", "Sqrt",
     "Tanh"),
    _as_inputs,
)  # fmt: skip
_PAIR = dict.fromkeys(
    ("Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Not", "Or", "Pow", "Sub", "Where"),
    _broadcast,
)
OPERATORS: dict[str, Callable[[Any, Inputs], int] | None] = {
    **_VIEW, **_EACH, **_PAIR, "ConstantOfShape": lambda node, inputs: math.prod(_ints(inputs[0])), "Expand": _expand,
    "Gather": _gather, "MatMul": _matmul, "Range": _range, "Tile": _tile,
}  # fmt: skip

WIDEST = 8  # bytes of an element

# The oldest opsets for which onnx.reference has these operators. They compute what those of older opsets do.
EVALUATED_FROM = {"DequantizeLinear": 19, "QuantizeLinear": 19}


# ---- Values -------------------------------------------------------------------------------------------------------


class Constants:
    """Values that do not depend on a model's inputs, seen from one graph: its own and those of graphs around it."""

    def __init__(self, tensors: ModelTensors, opset: int, budget: Budget, outer: Constants | None = None) -> None:
        self._tensors, self._opset, self._budget, self._outer = tensors, opset, budget, outer
        self._values: dict[str, NDArray | Unknown] = {}
        self._initializers: dict[str, Any] = {}
        self._nodes: dict[str, Any] = {}  # by their outputs

    def inside(self, graph: Any) -> Constants:
        """The constants as a graph inside this one sees them."""
        inner = Constants(self._tensors, self._opset, self._budget, self)
        inner._nodes = {name: node for node in graph.node for name in node.output if name}
        inner._initializers = {tensor.name: tensor for tensor in graph.initializer}
        inner._values = {value.name: Unknown(f"{text(value.name)!r} is an input") for value in graph.input}
        for sparse in graph.sparse_initializer:
            inner._values[sparse.values.name] = Unknown(f"{text(sparse.values.name)!r} is sparse")
        # Initializers that are inputs too are defaults that a caller may replace. Exporters wrote all so once, and a
        # frozen layer is what the model holds.
        for name in inner._initializers:
            inner._values.pop(name, None)
        return inner

    def suppose(self, name: str, value: NDArray) -> None:
        """Let something have this value."""
        self._values[name] = value

    def value(self, name: str) -> NDArray | Unknown:
        """A value. Raises ValueError if it is a damaged tensor."""
        pending, begun = [name], set()
        while pending:  # not a recursion: a chain of nodes may be of any length
            last = pending[-1]
            node = self._nodes.get(last)
            if last in self._values:
                pending.pop()
            elif last in self._initializers:
                self._values[last] = self._tensors.array(self._initializers[last])
            elif node is None:
                nowhere = Unknown(f"{text(last)!r} is nowhere given")
                self._values[last] = nowhere if self._outer is None else self._outer.value(last)
            elif reason := _refusal(node):
                self._set(node, Unknown(reason))
            elif last in begun:
                self._set(node, self._computed(node))
            else:
                begun.add(last)
                pending += [source for source in node.input if source and source not in self._values]
        return self._values[name]

    def ints(self, node: Any, name: str, place: int) -> list[int] | None:
        """Up to 8 integers that are an attribute of a node in older opsets, and its input in this place in newer ones.

        None if there are none, or they are not constant.
        """
        for attribute in node.attribute:
            if attribute.name == name:
                return list(attribute.ints)
        value = self.value(node.input[place]) if len(node.input) > place and node.input[place] else None
        if value is None or isinstance(value, Unknown) or value.dtype.kind not in "iu" or value.size > 8:
            return None
        return [int(n) for n in value.reshape(-1)]

    def dequantized(self, name: str) -> tuple[list[NDArray], int] | None:
        """What a DequantizeLinear makes a constant of, integers, scale and maybe zero point, and the axis of these two.

        None if no such node makes it, or one with other attributes: scales of blocks, another dtype.
        """
        node = self._nodes.get(name)
        if node is None:
            return self._outer.dequantized(name) if self._outer is not None and name not in self._initializers else None
        attributes = {a.name: a.i for a in node.attribute}
        if node.op_type != "DequantizeLinear" or any(attributes[name] for name in attributes if name != "axis"):
            return None
        inputs = [self.value(source) for source in node.input if source]
        return [a for a in inputs if isinstance(a, np.ndarray)], attributes.get("axis", 1)

    def _set(self, node: Any, values: list[NDArray | Unknown] | Unknown) -> None:
        if isinstance(values, Unknown):
            values = [values] * len(node.output)
        self._values.update({name: value for name, value in zip(node.output, values, strict=True) if name})

    def _computed(self, node: Any) -> list[NDArray | Unknown] | Unknown:
        """What a node gives. All that it reads has been looked up before, unless it depends on itself."""
        if node.op_type == "Constant":
            return [self._constant(node)]
        what = f"{node.op_type} {text(node.output[0])!r}"
        inputs: Inputs = []
        for source in node.input:
            value = self._values.get(source, Unknown(f"{what} depends on itself")) if source else None
            if isinstance(value, Unknown):
                return value
            inputs.append(value)
        try:
            elements = OPERATORS[node.op_type]
            if elements is not None:
                self._budget.check(WIDEST * elements(node, inputs))
            results = [np.asarray(value) for value in self._evaluated(node, inputs)]
            if any(a.dtype.hasobject or a.dtype.kind in "USc" for a in results):
                return Unknown(f"{what} gives no real numbers")
            self._budget.take(sum(a.nbytes for a in results if not is_view(a, inputs)))
        except Exception as error:  # whatever the library raises for a node that is not as the specification has it
            return Unknown(f"{what} cannot be computed: {error if str(error) else type(error).__name__}")
        return [*results]

    def _evaluated(self, node: Any, inputs: Inputs) -> list[Any]:
        # A function, not the node alone, for which the evaluator would take the newest opset.
        names = [f"out{k}" for k in range(len(node.output))]
        feeds = {f"in{k}": a for k, a in enumerate(inputs) if a is not None}
        sources = [f"in{k}" if a is not None else "" for k, a in enumerate(inputs)]
        copy = onnx.NodeProto(op_type=node.op_type, input=sources, output=names, attribute=node.attribute)
        opset = max(self._opset, EVALUATED_FROM.get(node.op_type, 0))
        opsets = [onnx.helper.make_opsetid("", opset)]
        function = onnx.helper.make_function("fastrnn", "constant", list(feeds), names, [copy], opsets)
        with np.errstate(all="ignore"):
            return ReferenceEvaluator(function).run(None, feeds, attributes={})

    def _constant(self, node: Any) -> NDArray | Unknown:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.HasField("t"):
                return self._tensors.array(attribute.t)
            for name, field, dtype in (
                ("value_float", "f", np.float32), ("value_floats", "floats", np.float32), ("value_int", "i", np.int64),
                ("value_ints", "ints", np.int64),
            ):  # fmt: skip
                if attribute.name == name:
                    return np.array(getattr(attribute, field), dtype)
        return Unknown(f"Constant {text(node.output[0])!r} has no dense numbers")


def _refusal(node: Any) -> str:
    """Why a node is not computed; empty if it is."""
    if not is_onnx(node.domain) or (node.op_type not in OPERATORS and node.op_type != "Constant"):
        return f"{text(node.output[0])!r} comes from {text(node.op_type)}, which is not computed"
    for attribute in node.attribute:
        if attribute.HasField("g") or attribute.graphs or (attribute.t.data_location and node.op_type != "Constant"):
            return f"{text(node.output[0])!r} comes from {text(node.op_type)} with an attribute that it does not have"
    return ""


def is_view(a: NDArray, inputs: Iterable[NDArray | None]) -> bool:
    """Whether an array lies in the memory of one of these."""
    return any(source is not None and np.may_share_memory(a, source) for source in inputs)
