"""The seam between layers and engines: what an engine is, and the arguments that it takes.

A layer is a loop over (layer, direction), and each of those is one *cell sequence*, run forwards or backwards by an
engine. Everything above this line knows nothing of how; everything below knows nothing of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from fastrnn.engines.cell import Cell, Record, Steps, Weights

__all__ = ["Engine", "Stepper"]


class Engine(Protocol):
    """Runs one cell over one batch of sequences.

    All arrays have the cell's dtype. `x`, `y`, `dy` and `dx` are time-major views whose last axis is contiguous and
    whose other strides are free; all others are C-contiguous. Outputs do not overlap inputs.

    Where steps have `starts`, lengths fall, and these views and a record hold the valid rows only, one step after
    another: (rows, 1, .), of which step t has those from starts[t] on.
    """

    name: str

    def prepare(self, cell: Cell, weights: Weights) -> Any:
        """Return `weights` in the form that `forward` and `stepper` want (packed, say)."""

    def prepare_backward(self, cell: Cell, weights: Weights) -> Any:
        """Return `weights` in the form that `backward` wants."""

    def forward(
        self, cell: Cell, weights: Any, steps: Steps, x: NDArray, h0: NDArray, c0: NDArray | None, y: NDArray,
        h_n: NDArray, c_n: NDArray | None, record: Record | None,
    ) -> None:  # fmt: skip
        """Run the cell over the steps.

        Reads x (T, B, I), h0 (B, O) and c0 (B, H); writes y (T, B, O), zero past a row's end, h_n (B, O),
        c_n (B, H) and, unless it is None, the valid steps of `record`. h_n may be h0 itself, c_n may be c0.
        """

    def forward_directions(self, calls: list[tuple[Any, ...]]) -> None:
        """Do what `forward` does for the directions of a layer, at once where there are threads for it.

        Each of the one or two calls has forward's arguments; they differ in what they write.
        """

    def backward(
        self, cell: Cell, weights: Any, steps: Steps, x: NDArray, h0: NDArray, c0: NDArray | None, y: NDArray,
        record: Record, dy: NDArray | None, dh_n: NDArray, dc_n: NDArray | None, dx: NDArray | None, dh0: NDArray,
        dc0: NDArray | None, dweights: Weights, adds_to_dx: bool,
    ) -> None:  # fmt: skip
        """Differentiate a run of `forward` whose y and record are given.

        Reads dy (T, B, O), dh_n (B, O) and dc_n (B, H); writes dh0, dc0 and dx (T, B, I), zero past a row's
        end, or adds to dx if `adds_to_dx`, or leaves it out if it is None; adds to `dweights`.
        """

    def stepper(self, cells: tuple[Cell, ...], weights: list[Any], h: NDArray, c: NDArray | None) -> Stepper:
        """Return a function that advances a stack of unidirectional cells by one step.

        It reads and updates h (L, B, O) and c (L, B, H) in place.
        """


Stepper: TypeAlias = Callable[[NDArray, NDArray], None]
"""(x, out): reads x (B, I) and writes out (B, O), both C-contiguous."""
