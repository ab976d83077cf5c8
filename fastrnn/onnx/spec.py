"""What ONNX's recurrent operators take, and the checks of it: names, shapes, dtypes and attributes.

From opset 7 to the newest (22) only `layout` (14) and bfloat16 (22) have been added, so all versions are read as one.
Source: https://onnx.ai/onnx/operators/, RNN, GRU and LSTM. DynamicQuantizeLSTM is ONNX Runtime's, an LSTM whose weights
are integers: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.engines.cell import CELLS
from fastrnn.engines.precision import Int8, Narrow
from fastrnn.onnx.activations import FUNCTIONS, Activation

__all__ = [
    "INPUTS", "OUTPUTS", "QUANTIZED", "Call", "Matrices", "Node", "checked_lengths", "domain_of", "without_zero_points",
]  # fmt: skip

INPUTS = {
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
}
OUTPUTS = {"RNN": ("Y", "Y_h"), "GRU": ("Y", "Y_h"), "LSTM": ("Y", "Y_h", "Y_c")}
QUANTIZED = {"DynamicQuantizeLSTM": "LSTM"}  # operators of com.microsoft, and those of ONNX whose equations they have
QUANTIZATION = ("W_scale", "W_zero_point", "R_scale", "R_zero_point")
INPUTS |= {op_type: INPUTS[plain] + QUANTIZATION for op_type, plain in QUANTIZED.items()}
OUTPUTS |= {op_type: OUTPUTS[plain] for op_type, plain in QUANTIZED.items()}
GATES = {cell.onnx.operator: len(cell.onnx.gates) for cell in CELLS.values() if cell.onnx.operator}
ACTIVATIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}  # whether each is reversed

COMMON = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout")
OWN = {"RNN": (), "GRU": ("linear_before_reset",), "LSTM": ("input_forget",)}
ATTRIBUTES = {op_type: (*COMMON, *own) for op_type, own in OWN.items()}
ATTRIBUTES |= {op_type: tuple(a for a in ATTRIBUTES[plain] if a != "layout") for op_type, plain in QUANTIZED.items()}

# What inputs may be, and what is computed in.
DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float32, "bfloat16": np.float32}
_NAMES = {name.lower(): name for name in FUNCTIONS}

Matrices: TypeAlias = "NDArray | tuple[Narrow, ...]"
"""Of each direction a matrix (G*H, K): an array (D, G*H, K), or matrices of fewer bits."""


def domain_of(op_type: str) -> str:
    """Where an operator is from: ONNX itself, which has no name, or com.microsoft."""
    return "com.microsoft" if op_type in QUANTIZED else ""


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
    def equations(self) -> str:
        """The operator of ONNX whose equations it has: but for weights of integers, itself."""
        return QUANTIZED.get(self.op_type, self.op_type)

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
    w: Matrices  # (D, G*H, I)
    r: Matrices  # (D, G*H, H)
    b: NDArray | None  # (D, 2*G*H)
    p: NDArray | None  # (D, 3*H)
    h0: NDArray  # (D, B, H), nobody else's
    c0: NDArray | None  # (D, B, H) of an LSTM, nobody else's
    lengths: NDArray[np.int64] | None  # (B,)
    dtype: np.dtype  # of the inputs, and of what is returned
    given: tuple[str, ...]  # names of the inputs that were given

    @property
    def hidden_size(self) -> int:
        return self.r[0].shape[1]

    def widened(self) -> Call:
        """The call with matrices of integers in float32; itself if it has none."""
        if isinstance(self.w, np.ndarray):
            return self
        w, r = (np.stack([matrix.widened() for matrix in matrices]) for matrices in (self.w, self.r))
        return replace(self, w=w, r=r)

    def weights(self, d: int) -> dict[str, Any]:
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
    default = ACTIVATIONS[QUANTIZED.get(op_type, op_type)]
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
    quantized = node.op_type in QUANTIZED
    for name in ("X", "W", "R", *(QUANTIZATION if quantized else ())):
        if name not in arrays:
            raise ValueError(f"{name}: expected an array, got none")
    dtype = arrays["X"].dtype
    known = ("float32",) if quantized else tuple(DTYPES)
    if dtype.name not in known or not dtype.isnative:
        raise TypeError(f"X: expected an array of {', '.join(known)}, got {dtype}")
    integers = ("W", "R", "W_zero_point", "R_zero_point") if quantized else ()
    for name in integers:
        expected = ("int8", "uint8") if name == "W" else (arrays["W"].dtype.name,)
        if arrays[name].dtype.name not in expected:
            alike = "" if name == "W" else ", as W is"
            raise TypeError(f"{name}: expected {' or '.join(expected)}{alike}, got {arrays[name].dtype}")
    for name, a in arrays.items():
        if name not in ("sequence_lens", *integers) and a.dtype != dtype:
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
    w, r = _integers(arrays) if quantized else (plain("W"), plain("R"))
    return Call(
        node,
        x,
        w,
        r,
        plain("B") if "B" in arrays else None,
        plain("P") if "P" in arrays else None,
        own_state("initial_h"),
        own_state("initial_c") if "initial_c" in names else None,
        checked_lengths(arrays.get("sequence_lens"), len(x)),
        dtype,
        tuple(name for name in names if name in arrays),
    )


def _check_shapes(node: Node, arrays: Mapping[str, NDArray]) -> tuple[int, int, int]:
    """Check that shapes fit together; return D, B and H."""
    x, r = arrays["X"], arrays["R"]
    G = GATES[node.equations]
    if x.ndim != 3:
        axes = "(batch_size, seq_length, input_size)" if node.batch_first else "(seq_length, batch_size, input_size)"
        raise ValueError(f"X: expected {axes}, got shape {x.shape}")
    quantized = node.op_type in QUANTIZED  # then W and R are transposed
    if r.ndim != 3:
        axes = f"hidden_size, {G}*hidden_size" if quantized else f"{G}*hidden_size, hidden_size"
        raise ValueError(f"R: expected (num_directions, {axes}), got {r.shape}")
    _, B, I = node.time_major(x).shape
    D, H = len(node.reversed), node.hidden_size or r.shape[1 if quantized else 2]
    if not (I and H):
        raise ValueError(f"X, R: expected an input_size and a hidden_size of at least 1, got {x.shape} and {r.shape}")
    state = (B, D, H) if node.batch_first else (D, B, H)
    shapes = {
        "W": (D, I, G * H) if quantized else (D, G * H, I), "R": (D, H, G * H) if quantized else (D, G * H, H),
        "B": (D, 2 * G * H), "P": (D, 3 * H), "sequence_lens": (B,), "initial_h": state, "initial_c": state,
    }  # fmt: skip
    sizes = f"direction={node.direction!r}, hidden_size={H}, X of shape {x.shape}"
    for name, shape in shapes.items():
        if name in arrays and arrays[name].shape != shape:
            raise ValueError(f"{name}: expected {shape} for {sizes}, got {arrays[name].shape}")
    for name in QUANTIZATION if quantized else ():
        if arrays[name].shape not in ((D,), (D, G * H)):
            raise ValueError(f"{name}: expected {(D,)} or {(D, G * H)} for {sizes}, got {arrays[name].shape}")
    return D, B, H


def _integers(arrays: Mapping[str, NDArray]) -> tuple[Matrices, Matrices]:
    """W and R of a node that has them as integers; both in float32 if one of them does not fit into int8."""
    parts = []
    for name in ("W", "R"):
        weights, scale, zero = (arrays[name + suffix] for suffix in ("", "_scale", "_zero_point"))
        if not np.isfinite(scale).all():
            raise ValueError(f"{name}_scale: expected finite numbers, got infinities or NaN")
        D = len(weights)
        parts.append((weights.swapaxes(1, 2), scale.reshape(D, -1), zero.reshape(D, -1)))
    w, r = (without_zero_points(*part) for part in parts)
    if w is not None and r is not None:
        return w, r
    widened = [(weights - _wide(zero)[:, :, None]) * scale[:, :, None] for weights, scale, zero in parts]
    return np.ascontiguousarray(widened[0]), np.ascontiguousarray(widened[1])


def without_zero_points(weights: NDArray, scale: NDArray, zero: NDArray) -> tuple[Int8, ...] | None:
    """Integers (D, N, K) of 8 bits as a matrix for each direction; None where one less its zero point has no place.

    Scales and zero points are (D, N), or have ones for either.
    """
    values = weights - _wide(zero)[:, :, None]
    if values.min() < -128 or values.max() > 127:
        return None
    scales = np.array(np.broadcast_to(scale, values.shape[:2]), np.float32)
    return tuple(map(Int8, np.ascontiguousarray(values, np.int8), scales))


def _wide(integers: NDArray) -> NDArray[np.int16]:
    """Integers of 8 bits, of which differences do not overflow."""
    return integers.astype(np.int16)


def checked_lengths(lengths: NDArray | None, T: int) -> NDArray[np.int64] | None:
    """Check sequence_lens of a run over T steps; None is none."""
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
