"""What surrounds recurrent layers in a model, by engine: linear layers, losses, optimisers, dropout.

An engine's `operations` are here twice: in NumPy, which is the reference and reads like the equations, and in C
(`CompiledOperations`), on the same kernels and threads as the recurrent layers. Arguments are checked before.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastrnn._core import native
from fastrnn.engines import philox

__all__ = ["CompiledOperations", "LinearGradients", "Operations", "PackedLinear", "ReferenceOperations"]


class LinearGradients(NamedTuple):
    """Gradients of y = x W^T + b."""

    x: NDArray | None  # (N, I), if it was wanted
    weight: NDArray  # (O, I)
    bias: NDArray | None  # (O,), if there is one


class Operations(Protocol):
    """What an engine computes besides cells. Arrays have one dtype, float32 or float64, and are C-contiguous."""

    def linear(self, x: NDArray, weight: NDArray, bias: NDArray | None) -> NDArray:
        """Return y = x W^T + b, (N, O), for x (N, I), weight (O, I) and bias (O,)."""

    def linear_backward(
        self, x: NDArray, weight: NDArray, bias: NDArray | None, dy: NDArray, wants_x: bool = True
    ) -> LinearGradients:
        """Differentiate `linear`, given dy (N, O)."""

    def packed_linear(self, weight: NDArray, bias: NDArray | None) -> PackedLinear:
        """Return a function from x to `linear`, with copies of the parameters that are made for many calls."""

    def cross_entropy(
        self, x: NDArray, weight: NDArray, bias: NDArray | None, targets: NDArray[np.int64],
        shares: NDArray[np.float64], wants_grads: bool,
    ) -> tuple[NDArray[np.float64], LinearGradients | None]:  # fmt: skip
        """Return -log softmax(x W^T + b)[target] of each row, and the gradients of the sum of shares * these.

        targets (N,) are in 0..V-1. Where a share, (N,), is 0, a row counts for nothing, even if it is not finite.
        """

    def dropout(self, x: NDArray, key: int, probability: float) -> NDArray:
        """Return x/(1 - probability) where a value stays, else 0; x has any shape.

        The mask is a function of the key, 64 bits, and of the place in x: the same for every dtype, engine and number
        of threads. The gradient in x is the same function of the gradient in the result.
        """


class PackedLinear(Protocol):
    """What `Operations.packed_linear` returns."""

    def __call__(self, x: NDArray) -> NDArray:
        """Return y (N, O) for x (N, I)."""


class ReferenceOperations:
    """In NumPy."""

    def linear(self, x: NDArray, weight: NDArray, bias: NDArray | None) -> NDArray:
        """See `Operations.linear`."""
        y: NDArray = x @ weight.T
        return y if bias is None else y + bias

    def linear_backward(
        self, x: NDArray, weight: NDArray, bias: NDArray | None, dy: NDArray, wants_x: bool = True
    ) -> LinearGradients:
        """See `Operations.linear_backward`."""
        return LinearGradients(dy @ weight if wants_x else None, dy.T @ x, None if bias is None else dy.sum(axis=0))

    def packed_linear(self, weight: NDArray, bias: NDArray | None) -> PackedLinear:
        """See `Operations.packed_linear`."""
        weight, bias = weight.copy(), None if bias is None else bias.copy()
        return lambda x: self.linear(x, weight, bias)

    def cross_entropy(
        self, x: NDArray, weight: NDArray, bias: NDArray | None, targets: NDArray[np.int64],
        shares: NDArray[np.float64], wants_grads: bool,
    ) -> tuple[NDArray[np.float64], LinearGradients | None]:  # fmt: skip
        """See `Operations.cross_entropy`."""
        rows = np.arange(len(x))
        logits = self.linear(x, weight, bias)
        logits -= logits.max(axis=1, keepdims=True)
        exps = np.exp(logits)
        sums = exps.sum(axis=1, keepdims=True)
        losses = np.log(sums[:, 0], dtype=np.float64) - logits[rows, targets]
        if not wants_grads:
            return losses, None
        d = exps / sums
        d[rows, targets] -= 1
        d = np.where(shares[:, None] == 0, 0, d * shares[:, None]).astype(x.dtype)
        return losses, self.linear_backward(x, weight, bias, d)

    def dropout(self, x: NDArray, key: int, probability: float) -> NDArray:
        """See `Operations.dropout`."""
        stays = philox.words(key, x.size).reshape(x.shape) >= _threshold(probability)
        return np.where(stays, x * x.dtype.type(1 / (1 - probability)), x.dtype.type(0))


class CompiledOperations:
    """In C: csrc/training/."""

    def linear(self, x: NDArray, weight: NDArray, bias: NDArray | None) -> NDArray:
        """See `Operations.linear`."""
        y = native.empty((len(x), len(weight)), x.dtype)
        native.linear(x, weight, bias, y)
        return y

    def linear_backward(
        self, x: NDArray, weight: NDArray, bias: NDArray | None, dy: NDArray, wants_x: bool = True
    ) -> LinearGradients:
        """See `Operations.linear_backward`."""
        grads = _linear_gradients(x, weight, bias, wants_x)
        native.linear_backward(x, weight, dy, *grads)
        return grads

    def packed_linear(self, weight: NDArray, bias: NDArray | None) -> PackedLinear:
        """See `Operations.packed_linear`."""
        packed = native.PackedLinear(weight, None if bias is None else bias.copy())

        def run(x: NDArray) -> NDArray:
            y = native.empty((len(x), len(weight)), x.dtype)
            packed(x, y)
            return y

        return run

    def cross_entropy(
        self, x: NDArray, weight: NDArray, bias: NDArray | None, targets: NDArray[np.int64],
        shares: NDArray[np.float64], wants_grads: bool,
    ) -> tuple[NDArray[np.float64], LinearGradients | None]:  # fmt: skip
        """See `Operations.cross_entropy`."""
        losses = np.empty(len(x))
        grads = _linear_gradients(x, weight, bias, True) if wants_grads else None
        native.cross_entropy(x, weight, bias, targets, shares, losses, *(grads or (None, None, None)))
        return losses, grads

    def dropout(self, x: NDArray, key: int, probability: float) -> NDArray:
        """See `Operations.dropout`."""
        y = native.empty((x.size,), x.dtype).reshape(x.shape)
        native.dropout(x, key, _threshold(probability), 1 / (1 - probability), y)
        return y


def _linear_gradients(x: NDArray, weight: NDArray, bias: NDArray | None, wants_x: bool) -> LinearGradients:
    """Room for them, which is to be written."""
    make = native.empty if len(x) else native.zeros
    return LinearGradients(
        native.empty(x.shape, x.dtype) if wants_x else None,
        make(weight.shape, x.dtype),
        None if bias is None else make(bias.shape, x.dtype),
    )


def _threshold(probability: float) -> int:
    """The least word of 32 bits with which a value stays."""
    return int(probability * 2**32)
