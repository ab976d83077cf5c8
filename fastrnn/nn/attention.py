"""Attention: at each step, a decoder reads a weighted mean of the encoder's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastrnn.nn.layers import Linear
from fastrnn.nn.losses import softmax
from fastrnn.nn.module import Module, parameters
from fastrnn.params import Gradients

__all__ = ["Attention"]


class Memory(NamedTuple):
    """Encoder outputs as attention reads them: views (B, S, .), and a mask (B, 1, S) of the steps after an end."""

    values: NDArray
    keys: NDArray
    past: NDArray | None
    tape: Any


@dataclass(frozen=True, slots=True)
class AttentionTape:
    """What `Attention.backward` needs.

    Attributes
    ----------
    weights : ndarray
        (B, U, S): how much each query step reads of each memory step. The weights of a query step add up to 1.
    """

    memory: Memory
    queries: NDArray
    weights: NDArray
    combined: Any
    y: NDArray


class Attention(Module):
    """Global attention with a bilinear score: y_t = tanh(C [sum_s a_ts m_s, q_t]), a_t = softmax_s(q_t . K m_s).

    It is applied to the outputs of the decoder's recurrent layer, so that this layer runs over all steps in one call.

    Parameters
    ----------
    query_size, memory_size : int
        Q, the size of the decoder's outputs, and M, that of the encoder's.
    dtype : float32 or float64, default float32
        Of parameters, inputs and outputs.
    rng : seed or numpy.random.Generator, optional
        Source of the initial parameters.

    Attributes
    ----------
    params : dict of str to ndarray
        keys.weight (Q, M); combine.weight (Q, M + Q) and combine.bias (Q,).

    References
    ----------
    M.-T. Luong, H. Pham, C. D. Manning, "Effective approaches to attention-based neural machine translation" (2015).
    """

    def __init__(self, query_size: int, memory_size: int, *, dtype: DTypeLike = np.float32, rng: Any = None) -> None:
        rng = np.random.default_rng(rng)
        self._fill(
            Linear(memory_size, query_size, bias=False, dtype=dtype, rng=rng),
            Linear(memory_size + query_size, query_size, dtype=dtype, rng=rng),
        )

    def _fill(self, keys: Linear, combine: Linear) -> None:
        self.keys, self.combine = keys, combine
        Module.__init__(self, {"keys": keys, "combine": combine})

    @classmethod
    def rebuilt(cls, parts: dict[str, Any], options: dict[str, Any]) -> Attention:
        """Build the module from its parts; see `Module`."""
        attention = cls.__new__(cls)
        attention._fill(**parts, **options)
        return attention

    @property
    def output_size(self) -> int:
        """Q."""
        return self.combine.out_features

    def remember(self, memory: NDArray, lengths: NDArray | None = None) -> Memory:
        """Return encoder outputs (S, B, M), zero after their `lengths` (B,), in the form that `forward` reads."""
        keys, tape = self.keys.forward(memory)
        past = None
        if lengths is not None:
            past = (np.arange(len(memory)) >= np.asarray(lengths)[:, None])[:, None, :]
        return Memory(memory.swapaxes(0, 1), keys.swapaxes(0, 1), past, tape)

    def forward(self, queries: NDArray, memory: Memory) -> tuple[NDArray, AttentionTape]:
        """Read the memory at each query step.

        Parameters
        ----------
        queries : ndarray
            (U, B, Q).
        memory : Memory
            From `remember`.

        Returns
        -------
        y : ndarray
            (U, B, Q).
        tape : AttentionTape
            What `backward` needs. Its `weights` show what was read.
        """
        q = queries.swapaxes(0, 1)
        scores = q @ memory.keys.swapaxes(1, 2)
        if memory.past is not None:
            # A finite number, so that the mean over a memory without steps is 0 instead of NaN.
            np.copyto(scores, np.finfo(scores.dtype).min / 2, where=memory.past)
        weights = softmax(scores)
        joined = np.concatenate([weights @ memory.values, q], axis=-1)
        combined, tape = self.combine.forward(joined)
        y = np.tanh(combined, out=combined).swapaxes(0, 1)
        return y, AttentionTape(memory, q, weights, tape, y)

    def backward(self, tape: AttentionTape, dy: NDArray) -> tuple[NDArray, NDArray, Gradients]:
        """Differentiate `forward` and `remember`. Pure.

        Returns
        -------
        d_queries : ndarray
            (U, B, Q).
        d_memory : ndarray
            (S, B, M).
        grads : Gradients
            `params`; the rest is None.
        """
        memory, weights = tape.memory, tape.weights
        combine = self.combine.backward(tape.combined, (dy * (1 - tape.y * tape.y)).swapaxes(0, 1))
        M = memory.values.shape[-1]
        d_read, d_q = combine.x[..., :M], combine.x[..., M:]
        d_weights = d_read @ memory.values.swapaxes(1, 2)
        d_scores = weights * (d_weights - (d_weights * weights).sum(axis=-1, keepdims=True))
        if memory.past is not None:
            np.copyto(d_scores, 0, where=memory.past)
        d_q = d_q + d_scores @ memory.keys
        keys = self.keys.backward(memory.tape, (d_scores.swapaxes(1, 2) @ tape.queries).swapaxes(0, 1))
        d_memory = (weights.swapaxes(1, 2) @ d_read).swapaxes(0, 1) + keys.x
        return d_q.swapaxes(0, 1), d_memory, Gradients(None, None, parameters({"keys": keys, "combine": combine}))
