"""What ONNX's recurrent operators take, and the checks of it: names, shapes, dtypes and attributes.

From opset 7 to the newest (22) only `layout` (14) and bfloat16 (22) have been added, so all versions are read as one.
Source: https://onnx.ai/onnx/operators/, RNN, GRU and LSTM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.engines.cell import CELLS
from fastrnn.onnx.activations import FUNCTIONS, Activation

__all__ = ["INPUTS", "OUTPUTS", "Call", "Node"]

INPUTS = {
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
}
OUTPUTS = {"RNN": ("Y", "Y_h"), "GRU": ("Y", "Y_h"), "LSTM": ("Y", "Y_h", "Y_c")}
GATES = {cell.onnx.operator: len(cell.onnx.gates) for cell in CELLS.values()}
ACTIVATIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}  # whether each is reversed

COMMON = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout")
OWN = {"RNN": (), "GRU": ("linear_before_reset",), "LSTM": ("input_forget",)}
ATTRIBUTES = {op_type: (*COMMON, *own) for op_type, own in OWN.items()}

# What inputs may be, and what is computed in.
DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float32, "bfloat16": np.float32}
_NAMES = {name.lower(): name for name in FUNCTIONS}


@dataclass(frozen=True, slots=True)
class Node:
    """An operator with its attributes, checked."""

    op_type: str
    direction: str
    activations: tuple[tuple[Activation, ...], ...]  # for each direction f, or f and g, or f, g and h
    clip: float | None
    hidden_size: int | None
    batch_first: bool  # layout=1
    linear_before_reset: bool
    input_forget: bool

    @property
    def reversed(self) -> tuple[bool, ...]:
        """For each direction, whether it runs from the end."""
        return DIRECTIONS[self.direction]

    def time_major(self, a: NDArray) -> NDArray:
        """X as (T, B, I), a state as (D, B, H): a view. It is its own inverse."""
        return a.swapaxes(0, 1) if self.batch_first else a

    def contiguous(self, a: NDArray) -> NDArray:
        """A (D, B, H) state or its gradient as the caller has it."""
        return np.ascontiguousarray(self.time_major(a))

    def empty_y(self, T: int, B: int, H: int, dtype: Any) -> NDArray:
        """A new Y as the caller has it."""
        D = len(self.reversed)
        return np.empty((B, T, D, H) if self.batch_first else (T, D, B, H), dtype)

    def by_direction(self, y: NDArray) -> NDArray:
        """Y, or its gradient, as a (T, B, D, H) view."""
        return y.swapaxes(0, 1) if self.batch_first else y.swapaxes(1, 2)


@dataclass(frozen=True, slots=True)
class Call:
    """An operator with its inputs, checked: float32 or float64, contiguous but for x, time-major."""

    node: Node
    x: NDArray  # (T, B, I), its last axis contiguous
    w: NDArray  # (D, G*H, I)
    r: NDArray  # (D, G*H, H)
    b: NDArray | None  # (D, 2*G*H)
    p: NDArray | None  # (D, 3*H)
    h0: NDArray  # (D, B, H), nobody else's
    c0: NDArray | None  # (D, B, H) of an LSTM, nobody else's
    lengths: NDArray[np.int64] | None  # (B,)
    dtype: np.dtype  # of the inputs, and of what is returned
    given: tuple[str, ...]  # names of the inputs that were given

    @property
    def hidden_size(self) -> int:
        return self.r.shape[2]

    def weights(self, d: int) -> dict[str, NDArray]:
        """One direction's W, R and, where given, B and P."""
        named = {"W": self.w, "R": self.r, "B": self.b, "P": self.p}
        return {name: a[d] for name, a in named.items() if a is not None}


def _there(argument: str, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """What is not None."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{argument}: expected a mapping from names, got {type(mapping).__name__}")
    for name in mapping:
        if not isinstance(name, str):
            raise TypeError(f"{argument}: expected names that are str, got {name!r}")
    return {name: value for name, value in mapping.items() if value is not None}


# ---- Attributes ---------------------------------------------------------------------------------------------------


def read_node(op_type: str, attrs: Mapping[str, Any] | None) -> Node:
    """Check an operator's name and attributes; those that are None are as if they were not there."""
    validate.choice("op_type", op_type, tuple(INPUTS))
    given = _there("attrs", {} if attrs is None else attrs)
    unknown = sorted(given.keys() - set(ATTRIBUTES[op_type]))
    if unknown:
        raise ValueError(f"attrs: expected {op_type}'s {', '.join(ATTRIBUTES[op_type])}, got {', '.join(unknown)}")
    direction = validate.choice("direction", _text("direction", given.get("direction", "forward")), tuple(DIRECTIONS))
    clip = None if "clip" not in given else _number("clip", given["clip"])
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: expected a number above 0, or none for no clipping, got {clip}")
    return Node(
        op_type,
        direction,
        _activations(op_type, len(DIRECTIONS[direction]), given),
        clip,
        validate.size("hidden_size", given["hidden_size"]) if "hidden_size" in given else None,
        bool(_one_of("layout", given.get("layout", 0), (0, 1))),
        bool(validate.integer("linear_before_reset", given.get("linear_before_reset", 0))),
        bool(_one_of("input_forget", given.get("input_forget", 0), (0, 1))),
    )


def _activations(op_type: str, D: int, given: Mapping[str, Any]) -> tuple[tuple[Activation, ...], ...]:
    default = ACTIVATIONS[op_type]
    names = [_text("activations", name) for name in _several("activations", given.get("activations", default * D))]
    if op_type == "RNN" and D == 1:
        names = names[:1] or names  # the schema's default has two, whatever the direction
    count = D * len(default)
    if len(names) != count:
        raise ValueError(f"activations: expected {count} names for {D} direction(s) of {op_type}, got {names}")
    for name in names:
        if name.lower() not in _NAMES:
            raise ValueError(f"activations: expected names among {', '.join(FUNCTIONS)}, got {name!r}")
    functions = [_NAMES[name.lower()] for name in names]
    alphas = _values("activation_alpha", given, [FUNCTIONS[name].alpha for name in functions])
    betas = _values("activation_beta", given, [FUNCTIONS[name].beta for name in functions])
    flat = [Activation(*values) for values in zip(functions, alphas, betas, strict=True)]
    return tuple(tuple(flat[k : k + len(default)]) for k in range(0, count, len(default)))


def _values(name: str, given: Mapping[str, Any], defaults: list[float | None]) -> Iterator[float]:
    """A value for each activation: given ones go, in order, to the functions that have such a value.

    The specification says "consumed in the order of activation functions", and ONNX Runtime takes it so. As many
    values as functions are one for each, as OpenVINO and onnx-mlir take it; both are the same where all consume.
    """
    values = [_number(name, value) for value in _several(name, given.get(name, ()))]
    one_for_each = len(values) == len(defaults)
    rest = iter(values)
    for default in defaults:
        value = next(rest, default) if one_for_each or default is not None else None
        yield 0.0 if default is None or value is None else value


def _one_of(name: str, value: Any, options: Sequence[int]) -> int:
    if validate.integer(name, value) not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, options))}, got {value}")
    return int(value)


def _text(name: str, value: Any) -> str:
    """A string, which onnx.helper gives as bytes."""
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected str, got {type(value).__name__}")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number that a float can be, got a larger one") from None


def _several(name: str, values: Any) -> list[Any]:
    listed = values.ndim == 1 if isinstance(values, np.ndarray) else isinstance(values, Sequence)
    if not listed or isinstance(values, (str, bytes)):
        raise TypeError(f"{name}: expected a list, got {type(values).__name__}")
    return list(values)


# ---- Inputs -------------------------------------------------------------------------------------------------------


def read_call(node: Node, inputs: Mapping[str, Any]) -> Call:
    """Check an operator's inputs; those that are None are as if they were not there."""
    names = INPUTS[node.op_type]
    arrays = {name: validate.as_ndarray(name, value) for name, value in _there("inputs", inputs).items()}
    unknown = [name for name in arrays if name not in names]
    if unknown:
        raise ValueError(f"inputs: expected {node.op_type}'s {', '.join(names)}, got {', '.join(unknown)}")
    for name in ("X", "W", "R"):
        if name not in arrays:
            raise ValueError(f"{name}: expected an array, got none")
    dtype = arrays["X"].dtype
    if dtype.name not in DTYPES or not dtype.isnative:
        raise TypeError(f"X: expected an array of {', '.join(DTYPES)}, got {dtype}")
    for name, a in arrays.items():
        if name != "sequence_lens" and a.dtype != dtype:
            raise TypeError(f"{name}: expected an array of {dtype.name}, as X is, got {a.dtype.name}")

    D, B, H = _check_shapes(node, arrays)
    compute = np.dtype(DTYPES[dtype.name])

    def plain(name: str) -> NDArray:
        return np.require(arrays[name], compute, ("C", "A"))

    def own_state(name: str) -> NDArray:
        if name not in arrays:
            return np.zeros((D, B, H), compute)
        return np.array(node.time_major(arrays[name]), compute, order="C")

    x = validate.contiguous_rows(node.time_major(arrays["X"]).astype(compute, copy=False))
    return Call(
        node,
        x,
        plain("W"),
        plain("R"),
        plain("B") if "B" in arrays else None,
        plain("P") if "P" in arrays else None,
        own_state("initial_h"),
        own_state("initial_c") if "initial_c" in names else None,
        _lengths(arrays.get("sequence_lens"), len(x)),
        dtype,
        tuple(name for name in names if name in arrays),
    )


def _check_shapes(node: Node, arrays: Mapping[str, NDArray]) -> tuple[int, int, int]:
    """Check that shapes fit together; return D, B and H."""
    x, r = arrays["X"], arrays["R"]
    if x.ndim != 3:
        axes = "(batch_size, seq_length, input_size)" if node.batch_first else "(seq_length, batch_size, input_size)"
        raise ValueError(f"X: expected {axes}, got shape {x.shape}")
    if r.ndim != 3:
        raise ValueError(f"R: expected (num_directions, {GATES[node.op_type]}*hidden_size, hidden_size), got {r.shape}")
    _, B, I = node.time_major(x).shape
    D, G, H = len(node.reversed), GATES[node.op_type], node.hidden_size or r.shape[2]
    if not (I and H):
        raise ValueError(f"X, R: expected an input_size and a hidden_size of at least 1, got {x.shape} and {r.shape}")
    state = (B, D, H) if node.batch_first else (D, B, H)
    shapes = {
        "W": (D, G * H, I), "R": (D, G * H, H), "B": (D, 2 * G * H), "P": (D, 3 * H), "sequence_lens": (B,),
        "initial_h": state, "initial_c": state,
    }  # fmt: skip
    for name, shape in shapes.items():
        if name in arrays and arrays[name].shape != shape:
            sizes = f"direction={node.direction!r}, hidden_size={H}, X of shape {x.shape}"
            raise ValueError(f"{name}: expected {shape} for {sizes}, got {arrays[name].shape}")
    return D, B, H


def _lengths(lengths: NDArray | None, T: int) -> NDArray[np.int64] | None:
    if lengths is None:
        return None
    if lengths.dtype.kind not in "iu" and lengths.size:
        raise TypeError(f"sequence_lens: expected integers, got {lengths.dtype}")
    if lengths.size and (lengths.min() < 0 or lengths.max() > T):
        worst = lengths.min() if lengths.min() < 0 else lengths.max()
        raise ValueError(f"sequence_lens: expected integers in 0..{T}, got {worst}")
    return lengths.astype(np.int64)


def read_out_grads(call: Call, out_grads: Mapping[str, Any]) -> dict[str, NDArray]:
    """Check the gradients of outputs, which have the outputs' names and shapes; None is as if it were not there."""
    node, names = call.node, OUTPUTS[call.node.op_type]
    given = _there("out_grads", out_grads)
    arrays = {name: validate.as_ndarray(f"out_grads[{name!r}]", value) for name, value in given.items()}
    if not arrays or not set(arrays) <= set(names):
        raise ValueError(f"out_grads: expected one or more of {', '.join(names)}, got {', '.join(arrays) or 'none'}")
    (T, B), D, H = call.x.shape[:2], len(node.reversed), call.hidden_size
    state = (B, D, H) if node.batch_first else (D, B, H)
    shapes = {"Y": (B, T, D, H) if node.batch_first else (T, D, B, H), "Y_h": state, "Y_c": state}
    for name, a in arrays.items():
        if a.dtype != call.dtype:
            raise TypeError(f"out_grads[{name!r}]: expected an array of {call.dtype.name}, as X is, got {a.dtype.name}")
        if a.shape != shapes[name]:
            raise ValueError(f"out_grads[{name!r}]: expected {shapes[name]}, got {a.shape}")
    return {name: np.require(a, call.x.dtype, ("C", "A")) for name, a in arrays.items()}
