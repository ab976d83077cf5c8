"""What surrounds recurrent layers in a model, by engine: linear layers, losses, optimisers, dropout.

An engine's `operations` are here twice: in NumPy, which is the reference and reads like the equations, and in C
(`CompiledOperations`), on the same kernels and threads as the recurrent layers. Arguments are checked before.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastrnn._core import native

__all__ = ["CompiledOperations", "Operations", "ReferenceOperations", "Update"]


class Update(NamedTuple):
    """A parameter in a step of an optimiser. Arrays are C-contiguous and have one dtype."""

    p: NDArray  # updated in place
    g: NDArray  # of p's shape, or (len(ids), columns)
    moments: tuple[NDArray, ...]  # of p's shape, updated in place
    ids: NDArray[np.int64] | None  # rising: g has the gradients of these rows of p, those of all others are 0
    only_rows: bool = False  # leave the other rows of p and of the moments as they are


class Operations(Protocol):
    """What an engine computes besides cells. Arrays have one dtype, float32 or float64, and are C-contiguous."""

    def linear(self, x: NDArray, weight: NDArray, bias: NDArray | None) -> NDArray:
        """Return y = x W^T + b, (N, O), for x (N, I), weight (O, I) and bias (O,)."""

    def linear_backward(
        self, x: NDArray, weight: NDArray, dy: NDArray, wants_bias: bool
    ) -> tuple[NDArray, NDArray, NDArray | None]:
        """Return dx (N, I), dweight (O, I) and dbias (O,), if wanted, given dy (N, O)."""

    def sum_rows(self, ids: NDArray[np.int64], largest: int, values: NDArray) -> tuple[NDArray[np.int64], NDArray]:
        """Return the distinct ids, rising, and for each the sum of the rows of `values` (N, E) with it, in their order.

        ids (N,) are in 0..largest.
        """

    def squares(self, arrays: list[NDArray]) -> float:
        """Return the sum of the squares of all values, in float64."""

    def sgd_step(
        self, updates: list[Update], scale: float, lr: float, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        """Take a step of `fastrnn.optim.SGD` with gradients times `scale`; there are moments if momentum is not 0.

        No two parameters share memory.
        """

    def adam_step(
        self, updates: list[Update], scale: float, lr: float, beta1: float, beta2: float, eps: float, keep: float
    ) -> None:
        """Update m and v with gradients times `scale`, then p = keep*p - lr*m/(sqrt(v) + eps).

        No two parameters share memory.
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

    def sum_rows(self, ids: NDArray[np.int64], largest: int, values: NDArray) -> tuple[NDArray[np.int64], NDArray]:
        """See `Operations.sum_rows`."""
        distinct, which = np.unique(ids, return_inverse=True)
        sums = np.zeros((len(distinct), values.shape[1]), values.dtype)
        np.add.at(sums, which, values)
        return distinct, sums

    def squares(self, arrays: list[NDArray]) -> float:
        """See `Operations.squares`."""
        return float(sum(np.square(a, dtype=np.float64).sum() for a in arrays))

    def sgd_step(
        self, updates: list[Update], scale: float, lr: float, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        """See `Operations.sgd_step`."""
        for update in updates:
            at, g = _rows(update)
            p = update.p[at]
            step = scale * g + weight_decay * p if weight_decay else scale * g
            if update.moments:
                (b,) = update.moments
                b[at] = momentum * b[at] + step
                step = step + momentum * b[at] if nesterov else b[at]
            update.p[at] = p - lr * step

    def adam_step(
        self, updates: list[Update], scale: float, lr: float, beta1: float, beta2: float, eps: float, keep: float
    ) -> None:
        """See `Operations.adam_step`."""
        for update in updates:
            at, g = _rows(update)
            p, (m, v) = update.p, update.moments
            m[at] = beta1 * m[at] + (1 - beta1) * scale * g
            v[at] = beta2 * v[at] + (1 - beta2) * (scale * g) ** 2
            p[at] = keep * p[at] - lr * m[at] / (np.sqrt(v[at]) + eps)


def _rows(update: Update) -> tuple[Any, NDArray]:
    """Return the index of what is updated, and its gradient."""
    if update.ids is None:
        return ..., update.g
    if update.only_rows:
        return update.ids, update.g
    g = np.zeros_like(update.p)
    g[update.ids] = update.g
    return ..., g


class CompiledOperations(ReferenceOperations):
    """In C: csrc/training/."""

    def sum_rows(self, ids: NDArray[np.int64], largest: int, values: NDArray) -> tuple[NDArray[np.int64], NDArray]:
        """See `Operations.sum_rows`."""
        return native.sum_rows(ids, largest, values)

    def squares(self, arrays: list[NDArray]) -> float:
        """See `Operations.squares`."""
        return native.squares(arrays)

    def sgd_step(
        self, updates: list[Update], scale: float, lr: float, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        """See `Operations.sgd_step`."""
        native.sgd_step(updates, scale, lr, momentum, nesterov, weight_decay)

    def adam_step(
        self, updates: list[Update], scale: float, lr: float, beta1: float, beta2: float, eps: float, keep: float
    ) -> None:
        """See `Operations.adam_step`."""
        native.adam_step(updates, scale, lr, beta1, beta2, eps, keep)
