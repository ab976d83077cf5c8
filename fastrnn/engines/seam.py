"""The seam between layers and engines: what an engine is, and the arguments that it takes.

A layer is a loop over layers and directions (`fastrnn.run`), and each of those is one *cell sequence*, run forwards or
differentiated by an engine. Everything above the seam knows nothing of how; everything below knows nothing of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastrnn.engines.cell import Cell
from fastrnn.engines.operations import Operations

__all__ = ["BackwardArgs", "Engine", "ForwardArgs", "Record", "StepNoise", "Stepper", "Steps", "Weights"]


class Weights(NamedTuple):
    """The parameters of one direction of one layer, or their gradients; None where the cell has none.

    The matrices of a layer that is frozen with fewer bits are `fastrnn.engines.precision.Narrow`.
    """

    weight_ih: NDArray  # (G*H, I)  acts on x_t
    weight_hh: Any = None  # (G*H, O)  acts on h_{t-1}; O is P if projected, else H; (G*H, H/N) of a cell with N heads;
    # None where gates do not see h_{t-1}
    bias_ih: NDArray | None = None  # (G*H,)
    bias_hh: NDArray | None = None  # (G*H,)
    weight_hr: NDArray | None = None  # (P, H)    projection
    peephole: NDArray | None = None  # (len(cell.peepholes), H)
    norm_ih: NDArray | None = None  # (G*H,)  gains of layer normalisation: of W x
    norm_hh: NDArray | None = None  # (G*H,)  of U h
    norm: NDArray | None = None  # (G*H,)  or of W x + U h
    norm_c: NDArray | None = None  # (H,)  of c, where h is made of it
    bias_c: NDArray | None = None  # (H,)


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
    cells: NDArray | None  # (T, B, S*H), c_t of a cell that has one
    norms: NDArray | None = None  # (T, B, cell.norm_values), what normalisation left; not zeroed; the compiled engines'
    fresh: NDArray | None = None  # (T, B, H), what zoneout hides: `Cell.records_fresh`


class StepNoise(NamedTuple):
    """What is random in the steps of one direction's run: docs/math.md says which random word decides what.

    With it, zoneout (the cell has its probabilities) chooses units; without it is the expectation.
    """

    key: int  # 64 bits
    candidate: float = 0.0  # the probability with which a value of the candidate is dropped
    state: NDArray | None = None  # (B, O), what h_{t-1} is multiplied by where it meets U
    first_step: int = 0  # the number of step 0, by which masks are drawn
    rows: NDArray[np.int64] | None = None  # (B,), the numbers of the rows; None: 0..B-1


class ForwardArgs(NamedTuple):
    """One direction's run forwards."""

    prepared: Any  # in   from `Engine.prepare`
    steps: Steps  # in
    x: NDArray  # in   (T, B, I)
    h0: NDArray  # in   (B, O)
    c0: NDArray | None  # in   (B, S*H), S is `Cell.has_c`; None exactly if that is 0
    y: NDArray  # out  (T, B, O), zero past a row's end
    h_n: NDArray  # out  (B, O); may be h0 itself
    c_n: NDArray | None  # out  (B, S*H); may be c0 itself
    record: Record | None  # out  zero past a row's end; None: nothing is recorded
    noise: StepNoise | None = None  # in


class BackwardArgs(NamedTuple):
    """The gradients of one direction's run."""

    prepared: Any  # in   from `Engine.prepare`, for backward
    steps: Steps  # in
    x: NDArray  # in   (T, B, I), as given to the forward run; likewise y, h0, c0 and record
    y: NDArray  # in   (T, B, O)
    h0: NDArray  # in   (B, O)
    c0: NDArray | None  # in   (B, S*H)
    record: Record  # in
    dy: NDArray | None  # in   (T, B, O); None: zeros
    dh_n: NDArray  # in   (B, O)
    dc_n: NDArray | None  # in   (B, S*H)
    dx: NDArray | None  # out  (T, B, I), zero past a row's end; None: not wanted
    adds_to_dx: bool  # in   whether dx is added to
    dh0: NDArray  # out  (B, O)
    dc0: NDArray | None  # out  (B, S*H)
    dweights: Weights  # out
    noise: StepNoise | None = None  # in   as given to the forward run, which had some if the cell has zoneout
    adds_to_dweights: bool = False  # in   whether these are added to


class Engine(Protocol):
    """Runs one cell over one batch of sequences.

    All arrays have the cell's dtype. `x`, `y`, `dy` and `dx` are time-major views whose last axis is contiguous and
    whose other strides are free; all others are C-contiguous. Outputs do not overlap inputs.

    Where steps have `starts`, lengths fall, and these views and a record hold the valid rows only, one step after
    another: (rows, 1, .), of which step t has those from starts[t] on.
    """

    name: str
    operations: Operations  # what surrounds recurrent layers

    def prepare(self, cell: Cell, weights: Weights, backward: bool = False) -> Any:
        """Return a cell and its weights in the form that `forward` and `stepper`, or `backward`, want (packed, say).

        The matrices may be narrow, if it is not for backward: all or none of them.
        """

    def forward(self, runs: list[ForwardArgs]) -> None:
        """Run the one or two directions of a layer, at once where there are threads for it."""

    def backward(self, runs: list[BackwardArgs]) -> None:
        """Differentiate what one call of `forward` ran. Two directions have one dx, to which the second adds."""

    def backward_steps(self, cell: Cell, B: int) -> int:
        """Return over how many steps of B rows `backward` sums the gradients of weights before it adds them up.

        A run that is cut at a multiple of it, counted from the step that ran last, and differentiated part by part, the
        later one first and the others with `adds_to_dweights`, gives what it gives as a whole: with the packed engine
        the same bits. The numbers of all cells are powers of two.
        """

    def stepper(self, prepared: list[Any], h: NDArray, c: NDArray | None) -> Stepper:
        """Return a function that advances a stack of unidirectional cells by one step.

        It reads and updates h (L, B, O) and c (L, B, S*H) in place.
        """


Stepper: TypeAlias = Callable[[NDArray, NDArray, "NDArray[np.int64] | None"], None]
"""(x, out, rows): reads x (n, I) and writes out (n, O), both C-contiguous; n is B, or less if only `rows` advance.

Then `rows` begin with n distinct ones of 0..B-1: those of h and c that belong to the rows of x and out.
"""
