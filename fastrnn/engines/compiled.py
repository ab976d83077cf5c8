"""The compiled engines: one C driver (csrc/), whose products are BLAS's or, with packed weights, our own."""

from __future__ import annotations

from numpy.typing import NDArray

from fastrnn._core import native
from fastrnn.engines import blas
from fastrnn.engines.cell import Cell
from fastrnn.engines.compiled_operations import CompiledOperations
from fastrnn.engines.operations import Operations
from fastrnn.engines.seam import BackwardArgs, ForwardArgs, Weights

__all__ = ["BlasEngine", "PackedEngine"]

assert blas.integer_bytes  # BLAS is there before the engines that use it


class BlasEngine:
    """Products by SciPy's BLAS: every CPU, every compiler."""

    name = "blas"
    operations: Operations = CompiledOperations()

    def prepare(self, cell: Cell, weights: Weights, backward: bool = False) -> native.NativeCell:
        """See `fastrnn.engines.Engine.prepare`."""
        return native.NativeCell(cell, weights)

    def forward(self, runs: list[ForwardArgs]) -> None:
        """See `fastrnn.engines.Engine.forward`."""
        native.forward(runs)

    def backward(self, runs: list[BackwardArgs]) -> None:
        """See `fastrnn.engines.Engine.backward`."""
        native.backward(runs)

    def backward_steps(self, cell: Cell, B: int) -> int:
        """See `fastrnn.engines.Engine.backward_steps`."""
        return native.backward_steps(cell, B)

    def stepper(self, prepared: list[native.NativeCell], h: NDArray, c: NDArray | None) -> native.NativeStepper:
        """See `fastrnn.engines.Engine.stepper`."""
        return native.NativeStepper(prepared, h, c)


class PackedEngine(BlasEngine):
    """Products by our own vector kernels, with weights packed for them."""

    name = "packed"

    def prepare(self, cell: Cell, weights: Weights, backward: bool = False) -> native.NativeCell:
        """See `fastrnn.engines.Engine.prepare`."""
        return native.NativeCell(cell, weights, "backward" if backward else "forward")
