"""Inference: a run that keeps nothing, frozen layers, and streams that take one step at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines, validate
from fastrnn.engines import Engine, memory
from fastrnn.engines.cell import Steps, Weights
from fastrnn.stack import Stack, State, at, direction_part, state_to_caller
from fastrnn.validate import Arguments

__all__ = ["Frozen", "Stream", "infer"]

# What lies between the layers of a unidirectional stack at a time, whatever T is.
CHUNK_BYTES = 1 << 19


def infer(stack: Stack, engine: Engine, prepared: list[Any], args: Arguments) -> tuple[NDArray, State]:
    """Run all layers and keep nothing.

    A unidirectional stack goes through time in chunks, each through all layers, so that what lies between two layers
    stays small. A backward direction needs the whole sequence of the layer below first.
    """
    B, D, O = args.h0.shape[1], stack.directions, stack.cells[0].output_size
    T = len(args.x if args.starts is None else args.starts)
    y = stack.empty(args.x.shape[0], args.x.shape[1], D * O)
    h, c = args.h0, args.c0
    if not args.state_is_new:
        h, c = h.copy(), None if c is None else c.copy()
    chunk = T
    if D == 1 and len(stack.cells) > 1:
        chunk = max(1, CHUNK_BYTES // max(1, B * O * stack.dtype.itemsize))
    for start in range(0, T, max(1, chunk)):
        count = min(chunk, T - start)
        part = _rows(args, start, count)
        below, out = args.x[part], y[part]
        for layer, cell in enumerate(stack.cells):
            above = out if layer == len(stack.cells) - 1 else memory.empty((*below.shape[:2], D * O), stack.dtype)
            engine.forward_directions([
                (cell, prepared[k], _part(args.steps(d), start, count), below, h[k], at(c, k),
                 direction_part(above, d, O), h[k], at(c, k), None)
                for d, k in enumerate(range(layer * D, layer * D + D))
            ])  # fmt: skip
            below = above
    return stack.to_caller(y, args.batched), state_to_caller(h, c, args.batched)


def _rows(args: Arguments, start: int, count: int) -> slice:
    """Where in x `count` steps from `start` on lie."""
    if args.starts is None:
        return slice(start, start + count)
    end = args.starts[start + count] if start + count < len(args.starts) else None
    return slice(args.starts[start], end)


def _part(steps: Steps, start: int, count: int) -> Steps:
    """The steps as seen by `count` of them from `start` on."""
    lengths = None if steps.lengths is None else np.clip(steps.lengths - start, 0, count)
    resets = None if steps.resets is None else steps.resets[start : start + count]
    starts = None if steps.starts is None else steps.starts[start : start + count] - steps.starts[start]
    return Steps(lengths, steps.order, resets, steps.reverse, starts)  # clipping keeps the order


class Frozen:
    """An immutable layer for inference, from a layer's ``freeze()``: its weights are packed once.

    Safe to share among threads: a call reads it and writes nothing but its own results.
    """

    __slots__ = ("_engine", "_prepared", "_stack", "_weights")

    def __init__(self, stack: Stack, engine: Engine, weights: list[Weights]) -> None:
        self._stack, self._engine = stack, engine
        self._weights = [Weights._make(None if a is None else a.copy() for a in w) for w in weights]
        self._prepared = [engine.prepare(stack.cells[k // stack.directions], w) for k, w in enumerate(self._weights)]

    def __reduce__(self) -> tuple[Any, ...]:
        return _frozen, (self._stack, self._engine.name, self._weights)

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None, resets: Any = None) -> tuple[NDArray, State]:
        """Run the layer; arguments, results and errors are those of calling the layer itself."""
        args = validate.arguments(self._stack, x, state, lengths, resets)
        return infer(self._stack, self._engine, self._prepared, args)

    def stream(self, batch_size: int = 1) -> Stream:
        """Return a stream: one state per row, advanced a step at a time.

        Parameters
        ----------
        batch_size : int, default 1
            B, how many sequences advance together.

        Raises
        ------
        TypeError, ValueError
            If `batch_size` is not an integer of at least 1, or the layer is bidirectional: a backward direction
            starts at the end, which a stream has not seen.
        """
        if self._stack.directions == 2:
            raise ValueError("stream: expected a unidirectional layer, got a bidirectional one, which needs the end")
        return Stream(self, validate.size("batch_size", batch_size))


def _frozen(stack: Stack, engine: str, weights: list[Weights]) -> Frozen:
    """A frozen layer from its pickle: packed again, for the machine that it is on now."""
    return Frozen(stack, engines.named("engine", engine), weights)


class Stream:
    """Sequences that arrive one step at a time; T steps equal one call over T steps.

    One thread at a time may use a stream; any number of streams may run at once on one frozen layer.
    """

    __slots__ = ("_c", "_check", "_frozen", "_h", "_shapes", "_stack", "_stepper")

    def __init__(self, frozen: Frozen, batch_size: int) -> None:
        self._frozen, self._stack = frozen, frozen._stack
        stack = self._stack
        self._h, self._c = validate.state_like(stack, "state", None, batch_size, True)
        self._stepper = frozen._engine.stepper(stack.cells, frozen._prepared, self._h, self._c)
        I, O = stack.cells[0].input_size, stack.output_size
        self._shapes = (batch_size, I), (batch_size, O)
        self._check = validate.StepCheck(batch_size, I, O, stack.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return _stream, (self._frozen, self._h.shape[1], self.state)

    def step(self, x: Any, out: NDArray | None = None) -> NDArray:
        """Advance every row by one step.

        Parameters
        ----------
        x : array_like
            (B, I), the layer's dtype.
        out : ndarray, optional
            (B, O), written to and returned; C-contiguous and not overlapping x. Nothing is allocated then.

        Returns
        -------
        ndarray
            (B, O): `out`, or a new array.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type, dtype or shape, or `out` cannot be written; before any work.
        """
        if out is not None and self._check(x, out):  # nothing to convert, to copy or to say: most steps of most streams
            self._stepper(x, out)
            return out
        dtype, (x_shape, out_shape) = self._stack.dtype, self._shapes
        x = validate.array("x", x, dtype)
        if x.shape != x_shape:
            raise ValueError(f"x: expected {x_shape}, got {x.shape}")
        if out is None:
            out = np.empty(out_shape, dtype)
        else:
            validate.output("out", out, out_shape, dtype)
            if np.may_share_memory(x, out):
                x = x.copy()
        if not (x.flags.c_contiguous and x.flags.aligned):
            x = np.array(x, order="C")
        self._stepper(x, out)
        return out

    def reset(self, rows: Any = None) -> None:
        """Set the state to zero, as at a sequence's start.

        Parameters
        ----------
        rows : int, array_like of int or array_like of bool, optional
            Which rows. Default: all.

        Raises
        ------
        TypeError, ValueError, IndexError
            If `rows` is none of these, or names a row that is not there.
        """
        index = slice(None) if rows is None else validate.rows("rows", rows, self._h.shape[1])
        self._h[:, index] = 0
        if self._c is not None:
            self._c[:, index] = 0

    @property
    def state(self) -> State:
        """A copy of h (L, B, O), or of (h, c) with c (L, B, H) for an LSTM. Assign to set it; None means zeros."""
        return state_to_caller(self._h.copy(), None if self._c is None else self._c.copy(), True)

    @state.setter
    def state(self, value: Any) -> None:
        h, c = validate.state_like(self._stack, "state", value, self._h.shape[1], True)
        self._h[...] = h
        if self._c is not None:
            self._c[...] = c


def _stream(frozen: Frozen, batch_size: int, state: State) -> Stream:
    """A stream from its pickle."""
    stream = Stream(frozen, batch_size)
    stream.state = state
    return stream
