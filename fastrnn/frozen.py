"""Inference: frozen layers, and streams that take one step at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines, run, validate
from fastrnn._core import native
from fastrnn.arguments import Initial, StepGate, arguments, state_like
from fastrnn.engines import Engine
from fastrnn.engines.precision import narrowed, precisions_of, stored
from fastrnn.engines.seam import Weights
from fastrnn.params import FrozenParameters
from fastrnn.stack import Stack, StackOwner, State, parts_of_c, state_to_caller

__all__ = ["Frozen", "Stream"]


class Frozen(StackOwner, FrozenParameters):
    """An immutable layer for inference, from a layer's ``freeze()``: its weights are packed once.

    Safe to share among threads: a call reads it and writes nothing but its own results.
    """

    __slots__ = ("_engine", "_initial", "_precision", "_prepared", "_stack", "_weights")

    def __init__(
        self, stack: Stack, engine: Engine, weights: list[Weights], initial: Initial = None,
        precision: tuple[str, ...] | None = None,
    ) -> None:  # fmt: skip
        """`weights` are arrays, or matrices that have the `precision` of their layer already."""
        self._stack, self._engine, self._initial = stack, engine, initial
        self._precision = precision or (stack.dtype.name,) * stack.num_layers
        D = len(stack.directions)
        self._weights = [narrowed_weights(w, self._precision[k // D]) for k, w in enumerate(weights)]
        self._prepared = run.prepare(stack, engine, self._weights)

    def __reduce__(self) -> tuple[Any, ...]:
        return _frozen, (self._stack, self._engine.name, self._weights, self._initial, self._precision)

    def __repr__(self) -> str:
        options = self._stack.options()
        if self.precision != self.dtype.name:
            options += f", precision={self.precision!r}"
        return f"Frozen({self.cell.layer}({options}), engine={self._engine.name!r})"

    @property
    def precision(self) -> str | tuple[str, ...]:
        """What the weights are kept in; a tuple, from bottom to top, if layers differ."""
        return self._precision[0] if len(set(self._precision)) == 1 else self._precision

    @property
    def params(self) -> dict[str, NDArray]:
        """The parameters as they are kept, read-only, under the layer's names.

        A matrix of int8 has the scales of its rows beside it, as "weight_ih_l0.scale"; one of bfloat16 is its bits, as
        uint16.
        """
        stack, params = self._stack, dict[str, NDArray]()
        for k, weights in enumerate(self._weights):
            there = [a for a in weights if a is not None]
            for (name, _), a in zip(stack.names(k).values(), there, strict=True):
                params |= stored(name, a)
        h, c = self._initial or (None, None)
        initial = [] if h is None else [h, *parts_of_c(c, stack.has_c)]
        for k in range(len(stack.cells)):
            for name, states in zip(stack.initial_names(k), initial, strict=True):
                params |= stored(name, states[k])
        return params

    @property
    def weight_bytes(self) -> int:
        """Bytes that the parameters take as they are stored in a file."""
        return sum(a.nbytes for w in self._weights for a in w if a is not None)

    @property
    def batch_first(self) -> bool:
        """Whether arrays are (B, T, .) instead of (T, B, .)."""
        return self._stack.batch_first

    def __call__(
        self, x: Any, state: Any = None, *, lengths: Any = None, resets: Any = None, mask: Any = None,
        masked_output: str = "zero",
    ) -> tuple[NDArray, State]:  # fmt: skip
        """Run the layer; arguments, results and errors are those of calling the layer itself."""
        args = arguments(self._stack, x, state, lengths, resets, mask, masked_output, self._initial)
        y, h, c = run.infer(self._stack, self._engine, self._prepared, args)
        return args.results(self._stack, y, h, c)

    def _packed(self) -> tuple[list[native.NativeCell], tuple[bool, ...], NDArray | None, NDArray | None]:
        """Packed cells, directions, and the learnt h (L*D, O) and c (L*D, S*H), for the C interface."""
        cells = self._prepared
        if self._engine.name != "packed":  # this one's products need no Python and no BLAS
            cells = run.prepare(self._stack, engines.named("engine", "packed"), self._weights)
        return cells, self._stack.directions, *(self._initial or (None, None))

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


def _frozen(
    stack: Stack, engine: str, weights: list[Weights], initial: Initial = None, precision: tuple[str, ...] | None = None
) -> Frozen:
    """A frozen layer from its pickle: packed again, for the machine that it is on now."""
    return Frozen(stack, engines.named("engine", engine), weights, initial, precision)


def narrowed_weights(weights: Weights, precision: str) -> Weights:
    """A copy whose matrices are in this precision; biases and peepholes stay as they are."""
    copies: dict[str, Any] = {}
    for name, a in weights._asdict().items():
        is_matrix = a is not None and name.startswith("weight")
        copies[name] = narrowed(a, precision) if is_matrix else None if a is None else a.copy()
    return Weights(**copies)


def checked_precision(stack: Stack, precision: Any) -> tuple[str, ...]:
    """The precision of each layer, from the argument `precision`: a name for all of them, or one for each.

    Raises
    ------
    TypeError, ValueError
        If it is none of these, or fewer bits are asked of a layer that is not float32.
    """
    own = stack.dtype.name
    if precision is None:
        precision = own
    if isinstance(precision, str):
        precision = (precision,) * stack.num_layers
    if not isinstance(precision, (tuple, list)):
        raise TypeError(f"precision: expected str, or a sequence of them, got {type(precision).__name__}")
    if len(precision) != stack.num_layers:
        raise ValueError(f"precision: expected one for each of {stack.num_layers} layers, got {len(precision)}")
    return tuple(validate.choice("precision", name, precisions_of(stack.dtype)) for name in precision)


class Stream(StackOwner):
    """Sequences that arrive one step at a time; T steps equal one call over T steps.

    One thread at a time may use a stream: a step, or a change of its state, while another thread's step runs is a
    RuntimeError. Any number of streams may run at once on one frozen layer.
    """

    __slots__ = ("_c", "_frozen", "_gate", "_h", "_sizes", "_stack")

    def __init__(self, frozen: Frozen, batch_size: int) -> None:
        self._frozen, self._stack = frozen, frozen._stack
        stack = self._stack
        self._h, self._c = state_like(stack, "state", None, batch_size, True, frozen._initial)
        self._sizes = _, I, O = batch_size, self.input_size, self.output_size
        stepper = frozen._engine.stepper(frozen._prepared, self._h, self._c)
        self._gate = StepGate(stepper, batch_size, I, O, stack.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return _stream, (self._frozen, self.batch_size, self.state)

    def __repr__(self) -> str:
        return f"Stream({self._frozen!r}, batch_size={self.batch_size})"

    @property
    def batch_size(self) -> int:
        """B: sequences that advance together."""
        return self._h.shape[1]

    def step(self, x: Any, out: NDArray | None = None, rows: Any = None) -> NDArray:
        """Advance every row, or some, by one step.

        Parameters
        ----------
        x : array_like
            (n, I), the layer's dtype; n is B, or how many `rows` there are. With n = 1 it may also be (I,).
        out : ndarray, optional
            (n, O), written to and returned; C-contiguous and not overlapping x. Nothing is allocated then, if `rows`
            are an array of int64 or None. (O,) for x of shape (I,).
        rows : int, array_like of int or array_like of bool, optional
            Which rows advance. The others keep their state. Default: all.

            Numbers are distinct, in any order: row k of x and `out` belongs to row rows[k] of the stream.

            Booleans (B,) are a mask, as in a layer's call: x and `out` have all B rows. Where the mask is False, x is
            not read and `out` is zero.

        Returns
        -------
        ndarray
            (n, O), or (O,) for x of shape (I,): `out`, or a new array.

        Raises
        ------
        TypeError, ValueError, IndexError
            If an argument has a wrong type, dtype or shape, `rows` names a row twice or one that is not there, or `out`
            cannot be written; before any work.
        RuntimeError
            If another thread's call of this stream has not ended.
        """
        if out is not None and self._gate.takes(x, out, rows):  # nothing to convert, to copy or to say: most steps
            return out
        (n, I, O), dtype = self._sizes, self._stack.dtype
        masked, hint = False, ""
        if rows is not None:
            rows = validate.distinct_rows("rows", rows, n)
            masked = rows.dtype == np.bool_
            if masked:
                rows = np.flatnonzero(rows)
            else:
                n, hint = len(rows), ", a row for each of `rows`"
        x_shape: tuple[int, ...] = (n, I)
        out_shape: tuple[int, ...] = (n, O)
        x = validate.array("x", x, dtype)
        if x.ndim == n == 1:
            x_shape, out_shape = (I,), (O,)
        if x.shape != x_shape:
            raise ValueError(f"x: expected {x_shape}{hint}, got {x.shape}")
        if out is None:
            out = np.empty(out_shape, dtype)
        else:
            validate.output("out", out, out_shape, dtype)
            if np.may_share_memory(x, out):
                x = x.copy()
        x, y = validate.contiguous(x), out
        if x.ndim == 1:
            x, y = x[None], y[None]
        if masked:
            advanced = np.empty((len(rows), O), dtype)
            self._gate.step(x[rows], advanced, rows)
            y[...] = 0
            y[rows] = advanced
        else:
            self._gate.step(x, y, rows)
        return out

    def reset(self, rows: Any = None) -> None:
        """Set the state to zero, or to the learnt initial state, as at a sequence's start.

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
        h, c = state_like(self._stack, "state", None, self.batch_size, True, self._frozen._initial)
        with self._gate:
            self._h[:, index] = h[:, index]
            if self._c is not None and c is not None:
                self._c[:, index] = c[:, index]

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
        with self._gate:
            self._h[...] = self._h.take(index, axis=1)
            if self._c is not None:
                self._c[...] = self._c.take(index, axis=1)

    @property
    def state(self) -> State:
        """A copy of h (L, B, O), or of (h, c) with c (L, B, H) for an LSTM, (h, c, n, m) for an sLSTM.

        Assign to set it; None is a reset.
        """
        return state_to_caller(self._h.copy(), None if self._c is None else self._c.copy(), True, self._stack.has_c)

    @state.setter
    def state(self, value: Any) -> None:
        h, c = state_like(self._stack, "state", value, self.batch_size, True, self._frozen._initial)
        with self._gate:
            self._h[...] = h
            if self._c is not None:
                self._c[...] = c


def _stream(frozen: Frozen, batch_size: int, state: State) -> Stream:
    """A stream from its pickle."""
    stream = Stream(frozen, batch_size)
    stream.state = state
    return stream
