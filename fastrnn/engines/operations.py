"""What surrounds recurrent layers in a model, by engine: linear layers, losses, optimisers, dropout.

An engine's `operations` are here twice: in NumPy, which is the reference and reads like the equations, and in C
(`CompiledOperations`), on the same kernels and threads as the recurrent layers. Arguments are checked before.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastrnn._core import native
from fastrnn.engines import philox

__all__ = ["CompiledOperations", "Operations", "ReferenceOperations"]


class Operations(Protocol):
    """What an engine computes besides cells. Arrays have one dtype, float32 or float64, and are C-contiguous."""

    def linear(self, x: NDArray, weight: NDArray, bias: NDArray | None) -> NDArray:
        """Return y = x W^T + b, (N, O), for x (N, I), weight (O, I) and bias (O,)."""

    def linear_backward(
        self, x: NDArray, weight: NDArray, dy: NDArray, wants_bias: bool
    ) -> tuple[NDArray, NDArray, NDArray | None]:
        """Return dx (N, I), dweight (O, I) and dbias (O,), if wanted, given dy (N, O)."""

    def dropout(self, x: NDArray, key: int, probability: float) -> NDArray:
        """Return x/(1 - probability) where a value stays, else 0; x has any shape.

        The mask is a function of the key, 64 bits, and of the place in x: the same for every dtype, engine and number
        of threads. The gradient in x is the same function of the gradient in the result.
        """


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

    def dropout(self, x: NDArray, key: int, probability: float) -> NDArray:
        """See `Operations.dropout`."""
        stays = philox.words(key, x.size).reshape(x.shape) >= _threshold(probability)
        return np.where(stays, x * x.dtype.type(1 / (1 - probability)), x.dtype.type(0))


class CompiledOperations(ReferenceOperations):
    """In C: csrc/training/."""

    def dropout(self, x: NDArray, key: int, probability: float) -> NDArray:
        """See `Operations.dropout`."""
        y = native.empty((x.size,), x.dtype).reshape(x.shape)
        native.dropout(x, key, _threshold(probability), 1 / (1 - probability), y)
        return y


def _threshold(probability: float) -> int:
    """The least word of 32 bits with which a value stays."""
    return int(probability * 2**32)
