"""The operations of the compiled engines: csrc/training/."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastrnn._core import native
from fastrnn.engines import philox
from fastrnn.engines.operations import AttentionGradients, LinearGradients, PackedLinear, Update
from fastrnn.engines.precision import Narrow

__all__ = ["CompiledOperations"]


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

    def packed_linear(self, weight: NDArray | Narrow, bias: NDArray | None) -> PackedLinear:
        """See `Operations.packed_linear`."""
        packed = native.PackedLinear(weight, bias)

        def run(x: NDArray) -> NDArray:
            y = native.empty((len(x), weight.shape[0]), x.dtype)
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

    def attend(
        self, queries: NDArray, keys: NDArray, values: NDArray, lengths: NDArray[np.int64] | None
    ) -> tuple[NDArray, NDArray]:
        """See `Operations.attend`."""
        (U, B, Q), (S, _, M) = queries.shape, values.shape
        batch_first = queries.strides[0] < queries.strides[1]
        joined = native.empty((B, U, M + Q) if batch_first else (U, B, M + Q), queries.dtype)
        joined = joined.swapaxes(0, 1) if batch_first else joined
        weights = native.empty((B, U, S), queries.dtype)
        native.attend(queries, keys, values, lengths, joined, weights)
        return joined, weights

    def attend_backward(
        self, queries: NDArray, keys: NDArray, values: NDArray, lengths: NDArray[np.int64] | None, weights: NDArray,
        d: NDArray,
    ) -> AttentionGradients:  # fmt: skip
        """See `Operations.attend_backward`."""
        grads = AttentionGradients._make(native.empty(a.shape, a.dtype) for a in (queries, keys, values))
        native.attend_backward(queries, keys, values, lengths, weights, d, *grads)
        return grads

    def greedy(self, logits: NDArray, banned: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Operations.greedy`."""
        ids = np.empty(len(logits), np.int64)
        native.greedy(logits, banned, ids)
        return ids

    def draw(
        self, logits: NDArray, temperature: float, uniforms: NDArray[np.float64], banned: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """See `Operations.draw`."""
        ids = np.empty(len(logits), np.int64)
        native.draw(logits, temperature, uniforms, banned, ids)
        return ids

    def beam(
        self, logits: NDArray, scores: NDArray[np.float64], done: NDArray[np.bool_], banned: NDArray[np.int64],
        stop: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:  # fmt: skip
        """See `Operations.beam`."""
        parents, ids, best = np.empty(scores.shape, np.int64), np.empty(scores.shape, np.int64), np.empty(scores.shape)
        native.beam(logits, scores, done, banned, stop, parents, ids, best)
        return parents, ids, best

    def dropout(self, x: NDArray, key: int, probability: float, first: int = 0) -> NDArray:
        """See `Operations.dropout`."""
        y = native.empty((x.size,), x.dtype).reshape(x.shape)
        native.dropout(x, key, philox.threshold(probability), 1 / (1 - probability), y, first)
        return y

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


def _linear_gradients(x: NDArray, weight: NDArray, bias: NDArray | None, wants_x: bool) -> LinearGradients:
    """Room for them, which is to be written."""
    make = native.empty if len(x) else native.zeros
    return LinearGradients(
        native.empty(x.shape, x.dtype) if wants_x else None,
        make(weight.shape, x.dtype),
        None if bias is None else make(bias.shape, x.dtype),
    )
