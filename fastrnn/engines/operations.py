"""What surrounds recurrent layers, by engine: linear layers, attention, searches, losses, optimisers, dropout.

An engine's `operations` are there twice: in NumPy (reference_operations.py), which is the reference and reads like the
equations, and in C (compiled_operations.py), on the same kernels and threads as the recurrent layers. Arguments are
checked before.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastrnn.engines.precision import Narrow

__all__ = ["AttentionGradients", "LinearGradients", "Operations", "PackedLinear", "Update"]


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
        self, x: NDArray, weight: NDArray, bias: NDArray | None, dy: NDArray, wants_x: bool = True
    ) -> LinearGradients:
        """Differentiate `linear`, given dy (N, O)."""

    def packed_linear(self, weight: NDArray | Narrow, bias: NDArray | None) -> PackedLinear:
        """Return a function from x to `linear`, made for many calls. The parameters must not change meanwhile.

        If the weight is narrow, x and the bias are float32, and the product is `Narrow.product`.
        """

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

    def dropout(self, x: NDArray, key: int, probability: float, first: int = 0) -> NDArray:
        """Return x/(1 - probability) where a value stays, else 0; x has any shape.

        The mask is a function of the key, 64 bits, and of the place, which of x's first value is `first`: the same for
        every dtype, engine and number of threads. The gradient in x is the same function of the gradient in the result.
        """

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


class PackedLinear(Protocol):
    """What `Operations.packed_linear` returns."""

    def __call__(self, x: NDArray) -> NDArray:
        """Return y (N, O) for x (N, I)."""
