"""Inference: frozen layers, and streams that take one step at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines, run, validate
from fastrnn.arguments import StepCheck, arguments, state_like
from fastrnn.engines import Engine
from fastrnn.engines.seam import Weights
from fastrnn.stack import Stack, StackOwner, State, state_to_caller

__all__ = ["Frozen", "Stream"]


class Frozen(StackOwner):
    """An immutable layer for inference, from a layer's ``freeze()``: its weights are packed once.

    Safe to share among threads: a call reads it and writes nothing but its own results.
    """

    __slots__ = ("_engine", "_prepared", "_stack", "_weights")

    def __init__(self, stack: Stack, engine: Engine, weights: list[Weights]) -> None:
        self._stack, self._engine = stack, engine
        self._weights = [Weights._make(None if a is None else a.copy() for a in w) for w in weights]
        self._prepared = run.prepare(stack, engine, self._weights)

    def __reduce__(self) -> tuple[Any, ...]:
        return _frozen, (self._stack, self._engine.name, self._weights)

    def __repr__(self) -> str:
        return f"Frozen({self.cell.kind.upper()}({self._stack.options()}), engine={self._engine.name!r})"

    @property
    def batch_first(self) -> bool:
        """Whether arrays are (B, T, .) instead of (T, B, .)."""
        return self._stack.batch_first

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None, resets: Any = None) -> tuple[NDArray, State]:
        """Run the layer; arguments, results and errors are those of calling the layer itself."""
        args = arguments(self._stack, x, state, lengths, resets)
        y, h, c = run.infer(self._stack, self._engine, self._prepared, args)
        return self._stack.to_caller(y, args.batched), state_to_caller(h, c, args.batched)

    def stream(self, batch_size: int = 1) -> Stream:
        """Return a stream: one state per row, advanced a step at a time.

        Parameters
        ----------
        batch_size : int, default 1
            B, how many sequences advance together.

        Raises
        ------
        TypeError, ValueError
            If `batch_size` is not an integer of at least 1, or a direction is reversed: it starts at the end, which a
            stream has not seen.
        """
        if self.bidirectional:
            raise ValueError("stream: expected a unidirectional layer, got a bidirectional one, which needs the end")
        if any(self._stack.directions):
            raise ValueError("stream: expected a layer that runs forwards, got one that starts at the end")
        batch_size = validate.size("batch_size", batch_size)
        validate.addressable("batch_size", batch_size, self.num_layers, self._stack.widest)
        return Stream(self, batch_size)


def _frozen(stack: Stack, engine: str, weights: list[Weights]) -> Frozen:
    """A frozen layer from its pickle: packed again, for the machine that it is on now."""
    return Frozen(stack, engines.named("engine", engine), weights)


class Stream(StackOwner):
    """Sequences that arrive one step at a time; T steps equal one call over T steps.

    One thread at a time may use a stream; any number of streams may run at once on one frozen layer.
    """

    __slots__ = ("_c", "_check", "_frozen", "_h", "_shapes", "_stack", "_stepper")

    def __init__(self, frozen: Frozen, batch_size: int) -> None:
        self._frozen, self._stack = frozen, frozen._stack
        stack = self._stack
        self._h, self._c = state_like(stack, "state", None, batch_size, True)
        self._stepper = frozen._engine.stepper(frozen._prepared, self._h, self._c)
        I, O = self.input_size, self.output_size
        self._shapes: tuple[tuple[int, ...], tuple[int, ...]] = (batch_size, I), (batch_size, O)
        self._check = StepCheck(batch_size, I, O, stack.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return _stream, (self._frozen, self.batch_size, self.state)

    def __repr__(self) -> str:
        return f"Stream({self._frozen!r}, batch_size={self.batch_size})"

    @property
    def batch_size(self) -> int:
        """B: sequences that advance together."""
        return self._h.shape[1]

    def step(self, x: Any, out: NDArray | None = None) -> NDArray:
        """Advance every row by one step.

        Parameters
        ----------
        x : array_like
            (B, I), the layer's dtype. With B = 1 it may also be (I,).
        out : ndarray, optional
            (B, O), written to and returned; C-contiguous and not overlapping x. Nothing is allocated then. (O,) for x
            of shape (I,).

        Returns
        -------
        ndarray
            (B, O), or (O,) for x of shape (I,): `out`, or a new array.

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
        if x.ndim == 1 and x_shape[0] == 1:
            x_shape, out_shape = x_shape[1:], out_shape[1:]
        if x.shape != x_shape:
            raise ValueError(f"x: expected {x_shape}, got {x.shape}")
        if out is None:
            out = np.empty(out_shape, dtype)
        else:
            validate.output("out", out, out_shape, dtype)
            if np.may_share_memory(x, out):
                x = x.copy()
        self._stepper(validate.contiguous(x).reshape(self._shapes[0]), out.reshape(self._shapes[1]))
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
        index = slice(None) if rows is None else validate.rows("rows", rows, self.batch_size)
        self._h[:, index] = 0
        if self._c is not None:
            self._c[:, index] = 0

    def select(self, rows: Any) -> None:
        """Continue each row from another one's state, or from its own.

        Parameters
        ----------
        rows : array_like of int
            (B,): row b goes on from the state of rows[b].

        Raises
        ------
        TypeError, ValueError, IndexError
            If `rows` are not B integers, or name a row that is not there.
        """
        index = validate.rows("rows", rows, self.batch_size)
        if index.dtype == np.bool_:
            raise TypeError("rows: expected integers, got booleans")
        if index.shape != (self.batch_size,):
            raise ValueError(f"rows: expected ({self.batch_size},), got {index.shape}")
        self._h[...] = self._h.take(index, axis=1)
        if self._c is not None:
            self._c[...] = self._c.take(index, axis=1)

    @property
    def state(self) -> State:
        """A copy of h (L, B, O), or of (h, c) with c (L, B, H) for an LSTM. Assign to set it; None means zeros."""
        return state_to_caller(self._h.copy(), None if self._c is None else self._c.copy(), True)

    @state.setter
    def state(self, value: Any) -> None:
        h, c = state_like(self._stack, "state", value, self.batch_size, True)
        self._h[...] = h
        if self._c is not None:
            self._c[...] = c


def _stream(frozen: Frozen, batch_size: int, state: State) -> Stream:
    """A stream from its pickle."""
    stream = Stream(frozen, batch_size)
    stream.state = state
    return stream
