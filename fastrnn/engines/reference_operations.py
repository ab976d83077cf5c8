"""The operations of the reference engine: NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn.engines import philox
from fastrnn.engines.operations import LinearGradients, PackedLinear, Update

__all__ = ["ReferenceOperations"]


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
        stays = philox.words(key, x.size).reshape(x.shape) >= philox.threshold(probability)
        return np.where(stays, x * x.dtype.type(1 / (1 - probability)), x.dtype.type(0))

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
