"""All checks of what callers pass to layers, and nothing else. Engines trust what comes from here.

Every error names the argument, what was expected and what came, and is raised before any work is done.
"""

from __future__ import annotations

import math
import operator
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn._core.native import StepCheck
from fastrnn.engines.cell import Cell, Steps, Weights
from fastrnn.stack import Stack

__all__ = [
    "Arguments", "StepCheck", "arguments", "choice", "cotangent", "parameter", "size", "state_like", "weights",
]  # fmt: skip

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a call was given, checked, in the form that engines take."""

    x: NDArray  # (T, B, I), a view
    h0: NDArray  # (L*D, B, O)
    c0: NDArray | None  # (L*D, B, H)
    lengths: NDArray[np.int64] | None
    order: NDArray[np.int64] | None  # the rows by falling length
    resets: NDArray[np.uint8] | None
    batched: bool
    state_is_new: bool  # nobody else holds h0 and c0
    starts: NDArray[np.int64] | None = None  # of each step's rows, where x (rows, 1, I) has the valid ones only

    def steps(self, direction: int) -> Steps:
        return Steps(self.lengths, self.order, self.resets, direction == 1, self.starts)


def arguments(stack: Stack, x: Any, state: Any, lengths: Any, resets: Any, *, taped: bool = False) -> Arguments:
    """Check the arguments of a forward run. For a tape, resets are copied, as lengths always are."""
    I = stack.cells[0].input_size
    x = array("x", x, stack.dtype)
    batched = x.ndim != 2
    axes = ("B", "T") if stack.batch_first else ("T", "B")
    if x.ndim not in (2, 3) or x.shape[-1] != I:
        raise ValueError(f"x: expected ({axes[0]}, {axes[1]}, {I}) or (T, {I}), got {x.shape}")
    x = stack.time_major(x, batched)
    T, B = x.shape[:2]
    _addressable("x", T, B, max(I, stack.output_size, (stack.cells[0].gates + 1) * stack.cells[0].hidden_size))
    if x.strides[2] != x.itemsize or not x.flags.aligned:
        x = np.ascontiguousarray(x)
    h0, c0 = state_like(stack, "state", state, B, batched)
    lengths = _lengths(lengths, T, B, batched)
    order = None if lengths is None else np.argsort(-lengths, kind="stable")
    return Arguments(x, h0, c0, lengths, order, _resets(stack, resets, T, B, batched, taped), batched, state is None)


def cotangent(stack: Stack, dy: Any, T: int, B: int, batched: bool) -> NDArray:
    """Check the gradient of y; return it as a (T, B, D*O) view."""
    dy = array("dy", dy, stack.dtype)
    out = stack.output_size
    expected = ((B, T, out) if stack.batch_first else (T, B, out)) if batched else (T, out)
    if dy.shape != expected:
        raise ValueError(f"dy: expected {expected}, the shape of y, got {dy.shape}")
    dy = stack.time_major(dy, batched)
    return dy if dy.strides[2] == dy.itemsize and dy.flags.aligned else np.ascontiguousarray(dy)


def state_like(stack: Stack, name: str, state: Any, B: int, batched: bool) -> tuple[NDArray, NDArray | None]:
    """Check a state or its gradient; return contiguous (h, c), zeros for None. c is None unless the cell has one."""
    h_shape, c_shape = stack.state_shapes(B)
    if state is None:
        return np.zeros(h_shape, stack.dtype), np.zeros(c_shape, stack.dtype) if stack.has_c else None
    if not stack.has_c:
        if isinstance(state, (tuple, list)):
            raise TypeError(f"{name}: expected one array h, got a {type(state).__name__}: only an LSTM has (h, c)")
        return _state_array(name, state, h_shape, stack.dtype, batched), None
    if not isinstance(state, (tuple, list)):
        raise TypeError(f"{name}: expected (h, c), got {type(state).__name__}")
    if len(state) != 2:
        raise ValueError(f"{name}: expected (h, c), got {len(state)} items")
    h, c = state
    return (
        _state_array(f"{name}[0] (h)", h, h_shape, stack.dtype, batched),
        _state_array(f"{name}[1] (c)", c, c_shape, stack.dtype, batched),
    )


def array(name: str, value: Any, dtype: np.dtype) -> NDArray:
    """`value` as an array of exactly `dtype`, without a copy where it offers its memory."""
    if type(value) is not np.ndarray:
        value = as_ndarray(name, value)
    if value.dtype != dtype:
        raise TypeError(
            f"{name}: expected an array of {dtype.name}, got {value.dtype}; "
            f"convert it with {name.split('[')[0]}.astype(np.{dtype.name}), or give the layer dtype=..."
        )
    return value


def parameter(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    """A parameter as engines take it: of this shape and dtype, contiguous."""
    value = array(name, value, dtype)
    if value.shape != shape:
        raise ValueError(f"{name}: expected {shape}, got {value.shape}")
    return value if value.flags.c_contiguous and value.flags.aligned else np.ascontiguousarray(value)


def output(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """An array that results can be written to."""
    if type(value) is not np.ndarray:
        raise TypeError(f"{name}: expected a numpy.ndarray, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{name}: expected an array of {dtype.name}, got {value.dtype}")
    if value.shape != shape:
        raise ValueError(f"{name}: expected {shape}, got {value.shape}")
    if not value.flags.carray:
        raise ValueError(f"{name}: expected a writeable C-contiguous array, got one that is not")


def rows(name: str, value: Any, B: int) -> NDArray:
    """Rows of a batch, by number or by mask, as an index."""
    index = as_ndarray(name, value)
    if index.dtype == np.bool_:
        if index.shape != (B,):
            raise ValueError(f"{name}: expected a mask of shape ({B},), got {index.shape}")
        return index
    if index.size == 0:
        return index.astype(np.intp).reshape(0)
    if index.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers or booleans, got {index.dtype}")
    if index.ndim > 1:
        raise ValueError(f"{name}: expected a row or a list of rows, got shape {index.shape}")
    if index.min() < 0 or index.max() >= B:
        worst = index.min() if index.min() < 0 else index.max()
        raise IndexError(f"{name}: expected rows in 0..{B - 1}, got {worst}")
    return index


def weights(stack: Stack, params: dict[str, NDArray]) -> list[Weights]:
    """The parameters by (layer, direction), layer-major, checked."""
    result = []
    for layer in range(len(stack.cells)):
        for direction in range(stack.directions):
            found: dict[str, NDArray | None] = dict.fromkeys(Weights._fields)
            for field, (name, shape) in stack.names(layer, direction).items():
                if name not in params:
                    raise ValueError(f"params: expected {name} of shape {shape}, got no such name")
                found[field] = parameter(name, params[name], shape, stack.dtype)
            result.append(Weights(**found))  # type: ignore[arg-type]
    return result


def integer(name: str, value: Any) -> int:
    """An integer, of whatever integer type, but not a bool."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got a bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None


def index(name: str, value: Any, count: int) -> int:
    """One of 0..count-1."""
    value = integer(name, value)
    if not 0 <= value < count:
        raise IndexError(f"{name}: expected 0 to {count - 1}, got {value}")
    return value


def size(name: str, value: Any, minimum: int = 1) -> int:
    """A size: an integer of at least `minimum`."""
    value = integer(name, value)
    if value < minimum:
        raise ValueError(f"{name}: expected an integer of at least {minimum}, got {value}")
    if value > sys.maxsize:
        raise ValueError(f"{name}: expected a size that fits this machine, got {value}")
    return value


def flag(name: str, value: Any) -> bool:
    """A switch: a bool, or something NumPy calls one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: Any, options: tuple[str, ...]) -> str:
    """One of a few words."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {', '.join(map(repr, options))}, got {type(value).__name__}")
    if value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def dtype(value: Any) -> np.dtype:
    """A dtype that the kernels serve."""
    try:
        result = np.dtype(value)
    except (TypeError, ValueError):
        raise TypeError(f"dtype: expected float32 or float64, got {value!r}") from None
    if value is None or result not in DTYPES:  # NumPy reads None as float64
        raise TypeError(f"dtype: expected float32 or float64, got {value if value is None else result}")
    return result


def probability(name: str, value: Any) -> float:
    """A number in [0, 1)."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number from 0 up to but not including 1, got {type(value).__name__}")
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected a number from 0 up to but not including 1, got {value}")
    return float(value)


def at_least_zero(name: str, value: float, infinite: bool = False) -> float:
    """A number of at least 0: a finite one, or also an infinite one."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}") from None
    if not 0 <= number < math.inf and not (infinite and number == math.inf):
        raise ValueError(f"{name}: expected a number of at least 0, got {value}")
    return number


def layers_addressable(num_layers: int, cells: tuple[Cell, ...]) -> None:
    """Raise if the parameters of these cells have more bytes than an address can count."""
    for cell in cells:
        for field, shape in cell.shapes().items():
            name = "hidden_size" if field != "weight_ih" else "input_size, hidden_size"
            _addressable(name, *shape)
            _addressable("num_layers, " + name, num_layers, *shape)


def _addressable(name: str, *sizes: int) -> None:
    total = 16  # bytes of the widest value, twice over for both directions
    for n in sizes:
        total *= max(n, 1)
    if total > sys.maxsize:
        product = " * ".join(map(str, sizes))
        raise ValueError(f"{name}: expected sizes whose product can be addressed, got {product} elements")


def as_ndarray(name: str, value: Any) -> NDArray:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array without a mask, got a masked array; use lengths= for padding")
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        result = np.asarray(value)
    except Exception as error:
        raise TypeError(f"{name}: expected an array on the CPU, got {type(value).__name__} ({error})") from error
    if result.dtype == object:
        raise TypeError(f"{name}: expected an array of numbers, got {type(value).__name__} of objects")
    return result


def _state_array(name: str, value: Any, shape: tuple[int, int, int], dtype: np.dtype, batched: bool) -> NDArray:
    value = array(name, value, dtype)
    expected = shape if batched else (shape[0], shape[2])
    if value.shape != expected:
        raise ValueError(f"{name}: expected {expected}, got {value.shape}")
    value = np.ascontiguousarray(value).reshape(shape)
    return value if value.flags.aligned else value.copy()


def _lengths(lengths: Any, T: int, B: int, batched: bool) -> NDArray[np.int64] | None:
    if lengths is None:
        return None
    lengths = as_ndarray("lengths", lengths)
    if lengths.dtype.kind not in "iu" and lengths.size:  # an empty list is an array of floats, and fine
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    if lengths.ndim == 0 and not batched:
        lengths = lengths.reshape(1)
    if lengths.shape != (B,):
        raise ValueError(f"lengths: expected ({B},), one length a sequence, got {lengths.shape}")
    if lengths.size and (lengths.min() < 0 or lengths.max() > T):
        worst = lengths.min() if lengths.min() < 0 else lengths.max()
        raise ValueError(f"lengths: expected integers in 0..{T}, got {worst}")
    return lengths.astype(np.int64)  # always a copy: a tape must not see later changes


def _resets(stack: Stack, resets: Any, T: int, B: int, batched: bool, copy: bool) -> NDArray[np.uint8] | None:
    if resets is None:
        return None
    resets = as_ndarray("resets", resets)
    if resets.dtype != np.bool_:
        raise TypeError(f"resets: expected booleans, got {resets.dtype}")
    expected = ((B, T) if stack.batch_first else (T, B)) if batched else (T,)
    if resets.shape != expected:
        raise ValueError(f"resets: expected {expected}, got {resets.shape}")
    if not batched:
        resets = resets[:, None]
    elif stack.batch_first:
        resets = resets.T
    return (np.array(resets, order="C") if copy else np.ascontiguousarray(resets)).view(np.uint8)
