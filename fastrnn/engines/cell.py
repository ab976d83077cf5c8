"""What one direction of one layer computes: the cell, its parameters, and what a tape keeps of it.

This is the vocabulary that layers and engines share; nothing here computes. Gate order, parameter
shapes and the contents of a tape are stated once, here and (for C) in csrc/fastrnn.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrnn.engines import memory

__all__ = ["Cell", "Record", "Steps", "Weights"]


class Weights(NamedTuple):
    """The parameters of one direction of one layer, or their gradients; None where the cell has none."""

    weight_ih: NDArray  # (G*H, I)  acts on x_t
    weight_hh: NDArray  # (G*H, O)  acts on h_{t-1}; O is P if projected, else H
    bias_ih: NDArray | None  # (G*H,)
    bias_hh: NDArray | None  # (G*H,)
    weight_hr: NDArray | None  # (P, H)    projection
    peephole: NDArray | None  # (3, H)    p_i, p_f (see c_{t-1}) and p_o (sees c_t)


class Steps(NamedTuple):
    """Which steps of which rows are run, in which order."""

    lengths: NDArray[np.int64] | None = None  # (B,), each in 0..T
    order: NDArray[np.int64] | None = None  # (B,), the rows by falling length; None exactly if lengths is
    resets: NDArray[np.uint8] | None = None  # (T, B), nonzero: zero the state at the boundary between t-1 and t
    reverse: bool = False  # from each row's last valid step to its first
    starts: NDArray[np.int64] | None = None  # (T,); the series, and a record, then hold valid rows only: see `Engine`


class Record(NamedTuple):
    """What backward needs of a forward run besides x and y; zero past a row's end."""

    gates: NDArray | None  # (T, B, K, H), K values a unit: `Cell.recorded`
    cells: NDArray | None  # (T, B, H), c_t of an LSTM


@dataclass(frozen=True, slots=True)
class Cell:
    """One recurrent cell with its sizes and options. Equations: docs/math.md."""

    kind: str  # "rnn", "lstm" or "gru"
    input_size: int
    hidden_size: int
    dtype: np.dtype
    proj_size: int = 0
    bias: bool = True
    nonlinearity: str = "tanh"  # of an RNN: "tanh" or "relu"
    peephole: bool = False  # of an LSTM
    reset_after: bool = True  # of a GRU: reset gate applied after U_n h (True) or to h itself
    update_gate: str = "keep"  # of a GRU: z weighs the old state ("keep") or the new one ("replace")

    @property
    def gates(self) -> int:
        """G: blocks of H rows in weight_ih."""
        return {"rnn": 1, "gru": 3, "lstm": 4}[self.kind]

    @property
    def output_size(self) -> int:
        """O: size of h_t, which is P if projected, else H."""
        return self.proj_size or self.hidden_size

    @property
    def recorded(self) -> tuple[str, ...]:
        """Names of the K values a tape keeps for each step, row and unit, in order.

        An RNN needs none beyond y. "hn" is U_n h + b_hn, which the reset gate of a reset-after GRU multiplies.
        """
        if self.kind == "lstm":
            return ("i", "f", "g", "o")
        if self.kind == "gru":
            return ("r", "z", "n", "hn") if self.reset_after else ("r", "z", "n")
        return ()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name (without layer and direction) -> shape, in the order of `Weights`."""
        rows, hidden, out = self.gates * self.hidden_size, self.hidden_size, self.output_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, self.input_size), "weight_hh": (rows, out)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if self.proj_size:
            shapes["weight_hr"] = (out, hidden)
        if self.peephole:
            shapes["peephole"] = (3, hidden)
        return shapes

    def new_record(self, T: int, B: int, zeroed: bool) -> Record:
        """Room for a tape of T steps of B rows; `zeroed` when some steps will not be run."""
        K, H, make = len(self.recorded), self.hidden_size, memory.zeros if zeroed else memory.empty
        gates = make((T, B, K, H), self.dtype) if K else None
        return Record(gates, make((T, B, H), self.dtype) if self.kind == "lstm" else None)
