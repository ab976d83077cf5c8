"""The compiled engines: one C driver (csrc/), whose products are BLAS's or, with packed weights, our own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn._core import native
from fastrnn.engines import blas
from fastrnn.engines.cell import Cell, Record, Steps, Weights

__all__ = ["BlasEngine", "PackedEngine"]

assert blas.integer_bytes  # BLAS is there before the engines that use it


class BlasEngine:
    """Products by SciPy's BLAS: every CPU, every compiler."""

    name = "blas"

    def prepare(self, cell: Cell, weights: Weights) -> native.NativeCell:
        return native.NativeCell(cell, weights)

    def prepare_backward(self, cell: Cell, weights: Weights) -> native.NativeCell:
        return native.NativeCell(cell, weights)

    def forward(
        self, cell: Cell, weights: native.NativeCell, steps: Steps, x: NDArray, h0: NDArray, c0: NDArray | None,
        y: NDArray, h_n: NDArray, c_n: NDArray | None, record: Record | None,
    ) -> None:  # fmt: skip
        """See `fastrnn.engines.Engine.forward`."""
        native.forward([(weights, steps, x, h0, c0, y, h_n, c_n, record)])

    def forward_directions(self, calls: list[tuple[Any, ...]]) -> None:
        """See `fastrnn.engines.Engine.forward_directions`."""
        native.forward([call[1:] for call in calls])

    def backward(
        self, cell: Cell, weights: native.NativeCell, steps: Steps, x: NDArray, h0: NDArray, c0: NDArray | None,
        y: NDArray, record: Record, dy: NDArray | None, dh_n: NDArray, dc_n: NDArray | None, dx: NDArray | None,
        dh0: NDArray, dc0: NDArray | None, dweights: Weights, adds_to_dx: bool,
    ) -> None:  # fmt: skip
        """See `fastrnn.engines.Engine.backward`."""
        native.backward(
            weights, steps, x, h0, c0, y, record.gates, record.cells, dy, dh_n, dc_n, dx, dh0, dc0, dweights,
            adds_to_dx,
        )  # fmt: skip

    def stepper(
        self, cells: tuple[Cell, ...], weights: list[native.NativeCell], h: NDArray, c: NDArray | None
    ) -> native.NativeStepper:
        """See `fastrnn.engines.Engine.stepper`."""
        between = [np.empty_like(h[0]) for _ in cells[:-1]]
        return native.NativeStepper(weights, between, h, c)


class PackedEngine(BlasEngine):
    """Products by our own vector kernels, with weights packed for them."""

    name = "packed"

    def prepare(self, cell: Cell, weights: Weights) -> native.NativeCell:
        return native.NativeCell(cell, weights, "forward")

    def prepare_backward(self, cell: Cell, weights: Weights) -> native.NativeCell:
        return native.NativeCell(cell, weights, "backward")
