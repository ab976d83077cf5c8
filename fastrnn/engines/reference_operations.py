"""The operations of the reference engine: NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn.engines import philox
from fastrnn.engines.operations import AttentionGradients, LinearGradients, PackedLinear, Update
from fastrnn.engines.precision import Narrow

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

    def packed_linear(self, weight: NDArray | Narrow, bias: NDArray | None) -> PackedLinear:
        """See `Operations.packed_linear`."""
        right: Any = weight.T

        def run(x: NDArray) -> NDArray:
            y: NDArray = x @ right
            return y if bias is None else y + bias

        return run

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

    def attend(
        self, queries: NDArray, keys: NDArray, values: NDArray, lengths: NDArray[np.int64] | None
    ) -> tuple[NDArray, NDArray]:
        """See `Operations.attend`."""
        q, k, m = (a.swapaxes(0, 1) for a in (queries, keys, values))
        scores = q @ k.swapaxes(1, 2)
        if lengths is not None:
            np.copyto(scores, -np.inf, where=np.arange(len(keys)) >= lengths[:, None, None])
        exps = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=np.finfo(scores.dtype).min))
        sums = exps.sum(axis=-1, keepdims=True)
        weights = exps / np.where(sums == 0, 1, sums)
        return np.concatenate([weights @ m, q], axis=-1).swapaxes(0, 1), weights

    def attend_backward(
        self, queries: NDArray, keys: NDArray, values: NDArray, lengths: NDArray[np.int64] | None, weights: NDArray,
        d: NDArray,
    ) -> AttentionGradients:  # fmt: skip
        """See `Operations.attend_backward`."""
        q, k, m, d = (a.swapaxes(0, 1) for a in (queries, keys, values, d))
        d_read, d_q = np.split(d, [m.shape[-1]], axis=-1)
        d_weights = d_read @ m.swapaxes(1, 2)
        d_scores = weights * (d_weights - (d_weights * weights).sum(axis=-1, keepdims=True, initial=0))
        grads = d_q + d_scores @ k, d_scores.swapaxes(1, 2) @ q, weights.swapaxes(1, 2) @ d_read
        return AttentionGradients(*(g.swapaxes(0, 1) for g in grads))

    def greedy(self, logits: NDArray, banned: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Operations.greedy`."""
        allowed = np.delete(np.arange(logits.shape[1]), banned)
        if not allowed.size:
            return np.zeros(len(logits), np.int64)
        return allowed[logits[:, allowed].argmax(axis=1)]

    def draw(
        self, logits: NDArray, temperature: float, uniforms: NDArray[np.float64], banned: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """See `Operations.draw`."""
        logits = logits.astype(np.float64)
        logits[:, banned] = -np.inf
        with np.errstate(over="ignore", invalid="ignore"):
            logits -= logits.max(axis=1, keepdims=True)  # so the division can only overflow to -inf, which is right
            sums = np.exp(logits / temperature).cumsum(axis=1)
            places = uniforms[:, None] * sums[:, -1:]
        return np.minimum((sums <= places).sum(axis=1), (sums < sums[:, -1:]).sum(axis=1))

    def beam(
        self, logits: NDArray, scores: NDArray[np.float64], done: NDArray[np.bool_], banned: NDArray[np.int64],
        stop: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:  # fmt: skip
        """See `Operations.beam`."""
        B, W = scores.shape
        V = logits.shape[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            gains = logits.astype(np.float64)
            gains -= gains.max(axis=1, keepdims=True)
            gains -= np.log(np.exp(gains).sum(axis=1, keepdims=True))
            gains = gains.reshape(B, W, V)
            gains[..., banned] += -np.inf
            gains[done] = -np.inf
            gains[done, stop] = 0
            totals = (scores[:, :, None] + gains).reshape(B, W * V)
        totals[np.isnan(totals)] = -np.inf
        best = (-totals).argsort(axis=1, kind="stable")[:, :W]
        return *np.divmod(best, V), np.take_along_axis(totals, best, 1)

    def dropout(self, x: NDArray, key: int, probability: float, first: int = 0) -> NDArray:
        """See `Operations.dropout`."""
        stays = philox.words(key, x.size, first).reshape(x.shape) >= philox.threshold(probability)
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
