"""What surrounds recurrent layers in a model, by engine: linear layers, attention, losses, steps of searches.

An engine's `operations` are here twice: in NumPy, which is the reference and reads like the equations, and in C
(`CompiledOperations`), on the same kernels and threads as the recurrent layers. Arguments are checked before.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastrnn._core import native

__all__ = [
    "AttentionGradients",
    "CompiledOperations",
    "LinearGradients",
    "Operations",
    "PackedLinear",
    "ReferenceOperations",
]


class LinearGradients(NamedTuple):
    """Gradients of y = x W^T + b."""

    x: NDArray | None  # (N, I), if it was wanted
    weight: NDArray  # (O, I)
    bias: NDArray | None  # (O,), if there is one


class AttentionGradients(NamedTuple):
    """Gradients of `Operations.attend`."""

    queries: NDArray  # (U, B, Q)
    keys: NDArray  # (S, B, Q)
    values: NDArray  # (S, B, M)


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

    def attend(
        self, queries: NDArray, keys: NDArray, values: NDArray, lengths: NDArray[np.int64] | None
    ) -> tuple[NDArray, NDArray]:
        """Return what each query reads, joined with the query, (U, B, M + Q), and the weights (B, U, S).

        These are softmax_s(q . k_s) over the steps before the end of a memory, zeros after it, and the query reads the
        mean of the values that is weighted with them. queries (U, B, Q), keys (S, B, Q) and values (S, B, M) need only
        have contiguous rows; the result lies like the queries, time or batch first. lengths (B,) are in 0..S.
        """

    def attend_backward(
        self, queries: NDArray, keys: NDArray, values: NDArray, lengths: NDArray[np.int64] | None, weights: NDArray,
        d: NDArray,
    ) -> AttentionGradients:  # fmt: skip
        """Differentiate `attend`, given its weights and d (U, B, M + Q)."""

    def greedy(self, logits: NDArray, banned: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return each row's id with the largest of its logits (N, V), the first of equal ones; NaN is the largest.

        banned, rising and different, are ids that are not taken; if all are, the result is 0.
        """

    def draw(
        self, logits: NDArray, temperature: float, uniforms: NDArray[np.float64], banned: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return an id drawn from softmax(logits / temperature) of each row, by its number (N,) in [0, 1).

        The result is 0 where there are no probabilities: NaN or infinity among the logits, or all ids banned.
        """

    def beam(
        self, logits: NDArray, scores: NDArray[np.float64], done: NDArray[np.bool_], banned: NDArray[np.int64],
        stop: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:  # fmt: skip
        """Return parents, ids and scores (B, W): of each group's sequences that are one id longer, the W best.

        The score of a sequence is that of its parent, (B, W), and the log-softmax of its id, given logits (B*W, V).
        After a parent that is `done`, (B, W), stands only the id `stop`, at no cost. Scores are falling; of equal ones
        the first of the W * V stands first. NaN counts as -inf, which a place has, too, for which no sequence is left.
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
        if not len(x) and grads is not None:
            grads.weight.fill(0)
            if grads.bias is not None:
                grads.bias.fill(0)
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


def _linear_gradients(x: NDArray, weight: NDArray, bias: NDArray | None, wants_x: bool) -> LinearGradients:
    """Room for them, which is to be written."""
    return LinearGradients(
        native.empty(x.shape, x.dtype) if wants_x else None,
        native.empty(weight.shape, x.dtype),
        None if bias is None else np.empty(bias.shape, x.dtype),
    )
