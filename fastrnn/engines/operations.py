"""What surrounds recurrent layers in a model, by engine: linear layers, losses, optimisers, dropout.

An engine's `operations` are here twice: in NumPy, which is the reference and reads like the equations, and in C
(`CompiledOperations`), on the same kernels and threads as the recurrent layers. Arguments are checked before.
"""

from __future__ import annotations

from typing import Protocol

from numpy.typing import NDArray

__all__ = ["CompiledOperations", "Operations", "ReferenceOperations"]


class Operations(Protocol):
    """What an engine computes besides cells. Arrays have one dtype, float32 or float64, and are C-contiguous."""

    def linear(self, x: NDArray, weight: NDArray, bias: NDArray | None) -> NDArray:
        """Return y = x W^T + b, (N, O), for x (N, I), weight (O, I) and bias (O,)."""

    def linear_backward(
        self, x: NDArray, weight: NDArray, dy: NDArray, wants_bias: bool
    ) -> tuple[NDArray, NDArray, NDArray | None]:
        """Return dx (N, I), dweight (O, I) and dbias (O,), if wanted, given dy (N, O)."""


class ReferenceOperations:
    """In NumPy."""

    def linear(self, x: NDArray, weight: NDArray, bias: NDArray | None) -> NDArray:
        """See `Operations.linear`."""
        y: NDArray = x @ weight.T
        return y if bias is None else y + bias

    def linear_backward(
        self, x: NDArray, weight: NDArray, dy: NDArray, wants_bias: bool
    ) -> tuple[NDArray, NDArray, NDArray | None]:
        """See `Operations.linear_backward`."""
        return dy @ weight, dy.T @ x, dy.sum(axis=0) if wants_bias else None


class CompiledOperations(ReferenceOperations):
    """In C: csrc/training/."""
