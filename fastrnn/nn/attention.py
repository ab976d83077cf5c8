"""Attention: at each step, a decoder reads a weighted mean of the encoder's outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastrnn import engines, validate
from fastrnn.engines.operations import Operations
from fastrnn.nn.checks import same_shape
from fastrnn.nn.layers import FrozenLinear, Linear, packed
from fastrnn.nn.module import Module, parameters
from fastrnn.nn.states import pack, unpack
from fastrnn.params import Gradients

__all__ = ["Attention"]


class Memory(NamedTuple):
    """Encoder outputs (S, B, M) as attention reads them, their keys (S, B, Q), and their lengths (B,)."""

    values: NDArray
    keys: NDArray
    lengths: NDArray[np.int64] | None
    tape: Any


@dataclass(frozen=True, slots=True)
class AttentionTape:
    """What `Attention.backward` needs.

    Attributes
    ----------
    weights : ndarray
        (B, U, S): how much each query step reads of each memory step. The weights of a query step add up to 1, or
        are zeros if the memory has no steps.
    """

    memory: Memory
    queries: NDArray
    lengths: NDArray[np.int64] | None
    weights: NDArray
    combined: Any
    rows: NDArray  # of y, those that count


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
        rng = validate.generator("rng", rng)
        self._fill(
            Linear(memory_size, query_size, bias=False, dtype=dtype, rng=rng),
            Linear(memory_size + query_size, query_size, dtype=dtype, rng=rng),
        )

    def _fill(self, keys: Linear | FrozenLinear, combine: Linear | FrozenLinear) -> None:
        self.keys: Any = keys
        self.combine: Any = combine
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

    def remember(self, memory: NDArray, lengths: NDArray | None = None, *, grads: bool = True) -> Memory:
        """Return encoder outputs (S, B, M) in the form that `forward` reads, of each the first `lengths` (B,) steps.

        Without `grads` it is for inference only.
        """
        memory = validate.contiguous_rows(validate.array("memory", memory, self.keys.dtype))
        if memory.ndim != 3:
            raise ValueError(f"memory: expected (S, B, {self.keys.in_features}), got {memory.shape}")
        lengths = _lengths(lengths, memory)
        rows = pack(memory, lengths)
        rows, tape = self.keys.forward(rows) if grads else (self.keys(rows), None)
        return Memory(memory, unpack(rows, memory, lengths), lengths, tape)

    def __call__(self, queries: NDArray, memory: Memory, lengths: NDArray | None = None) -> NDArray:
        """Read the memory and keep nothing: inference. As `forward`, without the tape."""
        queries, lengths = self._checked(queries, memory, lengths)
        joined, _ = _operations().attend(queries, memory.keys, memory.values, memory.lengths)
        rows = self.combine(pack(joined, lengths))
        return unpack(np.tanh(rows, out=rows), queries, lengths)

    def forward(
        self, queries: NDArray, memory: Memory, lengths: NDArray | None = None
    ) -> tuple[NDArray, AttentionTape]:
        """Read the memory at each query step.

        Parameters
        ----------
        queries : ndarray
            (U, B, Q).
        memory : Memory
            From `remember`.
        lengths : ndarray of int, optional
            (B,), how many of the queries of each row count; y is 0 after them. Default: all.

        Returns
        -------
        y : ndarray
            (U, B, Q).
        tape : AttentionTape
            What `backward` needs. Its `weights` show what was read.
        """
        queries, lengths = self._checked(queries, memory, lengths)
        joined, weights = _operations().attend(queries, memory.keys, memory.values, memory.lengths)
        combined, tape = self.combine.forward(pack(joined, lengths))
        rows = np.tanh(combined, out=combined)
        return unpack(rows, queries, lengths), AttentionTape(memory, queries, lengths, weights, tape, rows)

    def _checked(
        self, queries: NDArray, memory: Memory, lengths: NDArray | None
    ) -> tuple[NDArray, NDArray[np.int64] | None]:
        queries = validate.contiguous_rows(validate.array("queries", queries, memory.keys.dtype))
        same_shape("queries", queries, (*queries.shape[:1], *memory.keys.shape[1:]))
        return queries, _lengths(lengths, queries)

    def packed(self, memory: Memory) -> Callable[[NDArray], NDArray]:
        """Return a function from rows (B * U, Q), U queries of each memory, to their y: for many calls with few rows.

        Later changes of parameters do not affect it.
        """
        B = memory.keys.shape[1]
        # The steps of a memory lie side by side here, because they are read together.
        values, keys = (np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1) for a in (memory.values, memory.keys))
        combine = packed(self.combine)

        def run(rows: NDArray) -> NDArray:
            queries = rows.reshape(B, -1, self.output_size).swapaxes(0, 1)
            joined, _ = _operations().attend(queries, keys, values, memory.lengths)
            y = combine(joined.swapaxes(0, 1).reshape(len(rows), -1))
            return np.tanh(y, out=y)

        return run

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
        memory = tape.memory
        combine = self.combine.backward(tape.combined, pack(dy, tape.lengths) * (1 - tape.rows * tape.rows))
        grads = _operations().attend_backward(
            tape.queries, memory.keys, memory.values, memory.lengths, tape.weights,
            unpack(combine.x, tape.queries, tape.lengths),
        )  # fmt: skip
        keys = self.keys.backward(memory.tape, pack(grads.keys, memory.lengths))
        d_memory = grads.values + unpack(keys.x, memory.values, memory.lengths)
        return grads.queries, d_memory, Gradients(None, None, parameters({"keys": keys, "combine": combine}))


def _operations() -> Operations:
    return engines.current().operations


def _lengths(lengths: Any, of: NDArray) -> NDArray[np.int64] | None:
    """Return the lengths (B,) of a series (T, B, .), each in 0..T."""
    if lengths is None:
        return None
    lengths = np.asarray(lengths)
    same_shape("lengths", lengths, of.shape[1:2])
    return np.clip(lengths, 0, len(of)).astype(np.int64)
