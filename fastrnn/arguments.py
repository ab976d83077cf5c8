"""What a layer's call is given, checked, in the form that engines take: they trust what comes from here.

Every error names the argument, what was expected and what came, and is raised before any work is done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn._core.native import StepGate
from fastrnn.engines.cell import Cell
from fastrnn.engines.seam import Steps, Weights
from fastrnn.masks import ValidRows
from fastrnn.stack import Stack, State, state_to_caller
from fastrnn.validate import addressable, array, as_ndarray, contiguous, contiguous_rows, parameter

__all__ = [
    "Arguments", "Initial", "StepGate", "arguments", "cotangent", "initial_state", "layers_fit", "state_like",
    "weights",
]  # fmt: skip

Initial: TypeAlias = "tuple[NDArray, NDArray | None] | None"
"""A learnt initial state: h (L*D, O), and c (L*D, H) where cells have one. None where it is zeros."""

ZERO = "zero"  # the default of `masked_output`; most calls give this very object


class Arguments(NamedTuple):
    """What a call was given, checked, in the form that engines take."""

    x: NDArray  # (T, B, I), a view
    h0: NDArray  # (L*D, B, O)
    c0: NDArray | None  # (L*D, B, S*H)
    lengths: NDArray[np.int64] | None
    order: NDArray[np.int64] | None  # the rows by falling length
    resets: NDArray[np.uint8] | None
    batched: bool
    state_is_new: bool  # nobody else holds h0 and c0
    starts: NDArray[np.int64] | None = None  # of each step's rows, where x (rows, 1, I) has the valid ones only
    valid: ValidRows | None = None  # where these lie in a caller's arrays, if the call is masked
    state_is_learnt: bool = False  # h0 and c0 are the layer's own initial state
    first_step: int = 0  # where this run begins in the whole call: what depends on the step counts from there
    first_row: int = 0  # likewise: which row of the whole call's x is the first of this x

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.x if self.starts is None else self.starts)

    def results(self, stack: Stack, y: NDArray, h: NDArray, c: NDArray | None) -> tuple[NDArray, State]:
        """y and the final state as the caller gets them."""
        if self.valid is not None:
            return self.valid.outputs(y), state_to_caller(*self.valid.unsorted(h, c), self.batched, stack.has_c)
        return stack.to_caller(y, self.batched), state_to_caller(h, c, self.batched, stack.has_c)

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
        steps, rows = slice(start, start + count), self.rows(start, count)
        lengths = None if self.lengths is None else np.clip(self.lengths - start, 0, count)  # this keeps the order
        resets = None if self.resets is None else self.resets[steps]
        starts = None if self.starts is None else self.starts[steps] - self.starts[start]
        return self._replace(
            x=self.x[rows], lengths=lengths, resets=resets, starts=starts, first_step=self.first_step + start,
            first_row=self.first_row + int(rows.start),
        )  # fmt: skip


def arguments(
    stack: Stack, x: Any, state: Any, lengths: Any, resets: Any, mask: Any, masked_output: Any,
    initial: Initial = None, *, taped: bool = False,
) -> Arguments:  # fmt: skip
    """Check the arguments of a forward run. For a tape, resets are copied, as lengths always are."""
    if initial is not None and resets is not None:
        raise ValueError("resets: expected None, because they set states to zero and not to the learnt ones, got some")
    I = stack.cells[0].input_size
    x = array("x", x, stack.dtype)[...]  # an array object of our own: its shape stays, whatever happens to the caller's
    batched = x.ndim != 2
    axes = ("B", "T") if stack.batch_first else ("T", "B")
    if x.ndim not in (2, 3) or x.shape[-1] != I:
        raise ValueError(f"x: expected ({axes[0]}, {axes[1]}, {I}) or (T, {I}), got {x.shape}")
    series = stack.time_major(x, batched)
    T, B = series.shape[:2]
    addressable("x", T, B, stack.widest)
    h0, c0 = state_like(stack, "state", state, B, batched, initial)
    learnt = state is None and initial is not None
    lengths, resets = _lengths(lengths, T, B, batched), _resets(stack, resets, T, B, batched, taped)
    if mask is not None or masked_output is not ZERO:
        lengths, valid = _masked(stack, mask, masked_output, lengths, resets, T, B, batched)
        if valid is not None:
            return Arguments(
                valid.gather(x), *valid.sorted(h0, c0), valid.lengths, np.arange(B, dtype=np.int64), valid.resets,
                batched, True, valid.starts, valid, learnt,
            )  # fmt: skip
    series = contiguous_rows(series)
    order = None if lengths is None else np.argsort(-lengths, kind="stable")
    return Arguments(series, h0, c0, lengths, order, resets, batched, state is None, state_is_learnt=learnt)


def cotangent(stack: Stack, dy: Any, args: Arguments) -> NDArray:
    """Check the gradient of y; return it as engines take it."""
    dy = array("dy", dy, stack.dtype)[...]
    valid, (T, B) = args.valid, args.x.shape[:2]
    sizes = _shape(stack, T, B, args.batched) if valid is None else valid.shape
    if dy.shape != (*sizes, stack.output_size):
        raise ValueError(f"dy: expected {(*sizes, stack.output_size)}, the shape of y, got {dy.shape}")
    if valid is not None:
        return valid.outputs_backward(dy)
    return contiguous_rows(stack.time_major(dy, args.batched))


def state_like(
    stack: Stack, name: str, state: Any, B: int, batched: bool, initial: Initial = None
) -> tuple[NDArray, NDArray | None]:
    """Check a state or its gradient; return contiguous (h, c), zeros or `initial` for None.

    c is None unless the cell has one; it has several states side by side where the cell has several.
    """
    shapes, letters = stack.state_shapes(B), stack.cells[0].states
    if state is None and initial is not None:
        h, c = initial
        return np.repeat(h[:, None], B, axis=1), None if c is None else np.repeat(c[:, None], B, axis=1)
    if state is None:
        LD, _, H = shapes[-1]
        zeros = np.zeros((LD, B, stack.has_c * H), stack.dtype) if stack.has_c else None
        return np.zeros(shapes[0], stack.dtype), zeros
    if not stack.has_c:
        if isinstance(state, tuple):
            raise TypeError(f"{name}: expected one array h, got a tuple: only an LSTM has (h, c)")
        return _state_array(name, state, shapes[0], stack.dtype, batched), None
    if not isinstance(state, (tuple, list)):
        raise TypeError(f"{name}: expected ({', '.join(letters)}), got {type(state).__name__}")
    if len(state) != len(letters):
        raise ValueError(f"{name}: expected ({', '.join(letters)}), got {len(state)} items")
    found = [
        _state_array(f"{name}[{k}] ({letters[k]})", state[k], shape, stack.dtype, batched)
        for k, shape in enumerate(shapes)
    ]
    return found[0], found[1] if len(found) == 2 else np.concatenate(found[1:], axis=-1)


def weights(stack: Stack, params: dict[str, NDArray]) -> list[Weights]:
    """The parameters of each layer and direction, checked."""
    result = []
    for k in range(len(stack.cells)):
        names = stack.names(k)
        result.append(Weights(**dict(zip(names, _named(stack, params, names.values()), strict=True))))
    return result


def initial_state(stack: Stack, params: dict[str, NDArray]) -> Initial:
    """The learnt initial state, checked, as new arrays."""
    if not stack.learn_initial_state:
        return None
    rows = [_named(stack, params, stack.initial_names(k).items()) for k in range(len(stack.cells))]
    h, *c = map(np.stack, zip(*rows, strict=True))
    return h, np.concatenate(c, axis=-1) if c else None


def _named(
    stack: Stack, params: dict[str, NDArray], names: Iterable[tuple[str, tuple[int, ...]]]
) -> list[NDArray]:  # fmt: skip
    """The parameters of these names and shapes."""
    found, dtype = [], stack.dtype
    for name, shape in names:
        if name not in params:
            raise ValueError(f"params: expected {name} of shape {shape}, got no such name")
        found.append(parameter(name, params[name], shape, dtype))
    return found


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
    validate.fits_memory("num_layers, input_size, hidden_size", total)


def _state_array(name: str, value: Any, shape: tuple[int, int, int], dtype: np.dtype, batched: bool) -> NDArray:
    value = array(name, value, dtype)
    expected = shape if batched else (shape[0], shape[2])
    if value.shape != expected:
        raise ValueError(f"{name}: expected {expected}, got {value.shape}")
    return contiguous(value).reshape(shape)


def _lengths(lengths: Any, T: int, B: int, batched: bool) -> NDArray[np.int64] | None:
    if lengths is None:
        return None
    lengths = as_ndarray("lengths", lengths)[...]
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


def _masked(
    stack: Stack, mask: Any, masked_output: Any, lengths: NDArray[np.int64] | None, resets: NDArray[np.uint8] | None,
    T: int, B: int, batched: bool,
) -> tuple[NDArray[np.int64] | None, ValidRows | None]:  # fmt: skip
    """The lengths of a masked call, or what its valid rows are where lengths cannot say it."""
    hold = validate.choice("masked_output", masked_output, ("zero", "hold")) == "hold"
    steps = np.arange(T)[:, None]
    valid = np.ones((T, B), np.bool_) if mask is None else _booleans(stack, "mask", mask, T, B, batched)
    if lengths is not None:
        valid = valid & (steps < lengths)
    counts = valid.sum(axis=0, dtype=np.int64)
    total = int(counts.sum())
    if total == T * B:
        return None, None
    if total == 0 or (not hold and (valid == (steps < counts)).all()):
        return counts, None
    shape = _shape(stack, T, B, batched)
    return None, ValidRows(valid, resets, shape, stack.batch_first and batched, stack.directions if hold else ())


def _resets(stack: Stack, resets: Any, T: int, B: int, batched: bool, copy: bool) -> NDArray[np.uint8] | None:
    if resets is None:
        return None
    resets = _booleans(stack, "resets", resets, T, B, batched)
    return (np.array(resets, order="C") if copy else contiguous(resets)).view(np.uint8)


def _booleans(stack: Stack, name: str, value: Any, T: int, B: int, batched: bool) -> NDArray[np.bool_]:
    """One boolean a step and row, as a (T, B) view."""
    value = as_ndarray(name, value)[...]
    if value.dtype != np.bool_:
        raise TypeError(f"{name}: expected booleans, got {value.dtype}")
    expected = _shape(stack, T, B, batched)
    if value.shape != expected:
        raise ValueError(f"{name}: expected {expected}, got {value.shape}")
    return stack.time_major(value[..., None], batched)[..., 0]


def _shape(stack: Stack, T: int, B: int, batched: bool) -> tuple[int, ...]:
    """The shape of the caller's x, but for its last axis."""
    return ((B, T) if stack.batch_first else (T, B)) if batched else (T,)
