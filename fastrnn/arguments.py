"""What a layer's call is given, checked, in the form that engines take: they trust what comes from here.

Every error names the argument, what was expected and what came, and is raised before any work is done.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrnn._core.native import StepCheck
from fastrnn.engines.cell import Cell
from fastrnn.engines.seam import Steps, Weights
from fastrnn.stack import Stack
from fastrnn.validate import addressable, array, as_ndarray, contiguous, contiguous_rows, fits_memory, parameter

__all__ = ["Arguments", "StepCheck", "arguments", "cotangent", "layers_fit", "state_like", "weights"]


class Arguments(NamedTuple):
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

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.x if self.starts is None else self.starts)

    def steps(self, reverse: bool) -> Steps:
        """The steps that a direction runs."""
        return Steps(self.lengths, self.order, self.resets, reverse, self.starts)

    def rows(self, start: int, count: int) -> slice:
        """Where in x, and in y, at most `count` steps from `start` on lie."""
        if self.starts is None:
            return slice(start, start + count)
        end = self.starts[start + count] if start + count < len(self.starts) else None
        return slice(self.starts[start], end)

    def part(self, start: int, count: int) -> Arguments:
        """The arguments of a run that has at most `count` steps from `start` on only, but for the state."""
        steps = slice(start, start + count)
        lengths = None if self.lengths is None else np.clip(self.lengths - start, 0, count)  # this keeps the order
        resets = None if self.resets is None else self.resets[steps]
        starts = None if self.starts is None else self.starts[steps] - self.starts[start]
        return self._replace(x=self.x[self.rows(start, count)], lengths=lengths, resets=resets, starts=starts)


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
    addressable("x", T, B, stack.widest)
    x = contiguous_rows(x)
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
    return contiguous_rows(stack.time_major(dy, batched))


def state_like(stack: Stack, name: str, state: Any, B: int, batched: bool) -> tuple[NDArray, NDArray | None]:
    """Check a state or its gradient; return contiguous (h, c), zeros for None. c is None unless the cell has one."""
    shapes = stack.state_shapes(B)
    if state is None:
        return np.zeros(shapes[0], stack.dtype), np.zeros(shapes[1], stack.dtype) if stack.has_c else None
    if not stack.has_c:
        if isinstance(state, tuple):
            raise TypeError(f"{name}: expected one array h, got a tuple: only an LSTM has (h, c)")
        return _state_array(name, state, shapes[0], stack.dtype, batched), None
    if not isinstance(state, (tuple, list)):
        raise TypeError(f"{name}: expected (h, c), got {type(state).__name__}")
    if len(state) != 2:
        raise ValueError(f"{name}: expected (h, c), got {len(state)} items")
    h, c = state
    return (
        _state_array(f"{name}[0] (h)", h, shapes[0], stack.dtype, batched),
        _state_array(f"{name}[1] (c)", c, shapes[1], stack.dtype, batched),
    )


def weights(stack: Stack, params: dict[str, NDArray]) -> list[Weights]:
    """The parameters of each layer and direction, checked."""
    result = []
    for k in range(len(stack.cells)):
        found: dict[str, NDArray] = {}
        for field, (name, shape) in stack.names(k).items():
            if name not in params:
                raise ValueError(f"params: expected {name} of shape {shape}, got no such name")
            found[field] = parameter(name, params[name], shape, stack.dtype)
        result.append(Weights(**found))
    return result


def layers_fit(num_layers: int, bottom: tuple[Cell, ...], upper: tuple[Cell, ...]) -> None:
    """Raise if the parameters of a stack with these cells in its layers are more than this machine can hold."""
    total = 0
    for cells, layers in ((bottom, 1), (upper, num_layers - 1)):
        for cell in cells:
            for field, shape in cell.shapes().items():
                name = "hidden_size" if field != "weight_ih" else "input_size, hidden_size"
                addressable(name, *shape)
                addressable("num_layers, " + name, num_layers, *shape)
                total += layers * math.prod(shape) * cell.dtype.itemsize
    fits_memory("num_layers, input_size, hidden_size", total)


def _state_array(name: str, value: Any, shape: tuple[int, int, int], dtype: np.dtype, batched: bool) -> NDArray:
    value = array(name, value, dtype)
    expected = shape if batched else (shape[0], shape[2])
    if value.shape != expected:
        raise ValueError(f"{name}: expected {expected}, got {value.shape}")
    return contiguous(value).reshape(shape)


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
    return (np.array(resets, order="C") if copy else contiguous(resets)).view(np.uint8)
