"""From a sequence of outputs to one vector: its last state, or the mean or maximum over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn.nn.states import d_final, final
from fastrnn.stack import StackOwner, State

__all__ = ["POOLINGS", "PoolTape", "pool", "unpool"]

POOLINGS = ("last", "mean", "max")


@dataclass(frozen=True, slots=True)
class PoolTape:
    """What `unpool` needs."""

    kind: str
    shape: tuple[int, ...]  # y's
    state: State
    counts: NDArray | int  # valid steps of each row, (B, 1)
    highest: tuple[NDArray, NDArray] | None  # the valid outputs, and their maxima


def pool(kind: str, layer: StackOwner, y: NDArray, state: State, lengths: NDArray | None) -> tuple[NDArray, PoolTape]:
    """Pool outputs (T, B, D*O), zero after a sequence's end, to (B, D*O). A sequence without steps gives zeros."""
    counts: Any = len(y) if lengths is None else np.asarray(lengths)[:, None]
    highest = None
    if kind == "last":
        pooled = final(layer, state)
    elif kind == "mean":
        pooled = y.sum(axis=0) / np.maximum(counts, 1).astype(y.dtype)
    else:
        valid = y if lengths is None else np.where(np.arange(len(y))[:, None, None] < counts, y, -np.inf)
        top = valid.max(axis=0, initial=-np.inf)
        highest = valid, top
        pooled = np.where(top == -np.inf, 0, top)
    return pooled, PoolTape(kind, y.shape, state, counts, highest)


def unpool(layer: StackOwner, tape: PoolTape, d: NDArray) -> tuple[NDArray | None, State | None]:
    """Return the gradients of y and of the final state, given that of `pool`'s result. One of the two is None."""
    if tape.kind == "last":
        return None, d_final(layer, tape.state, d)
    if tape.kind == "mean":
        return np.broadcast_to(d / np.maximum(tape.counts, 1).astype(d.dtype), tape.shape), None
    assert tape.highest is not None
    valid, top = tape.highest
    reached = valid == top  # twice as fast as argmax; several steps that reach the maximum share the gradient
    shares = d / np.maximum(reached.sum(axis=0), 1).astype(d.dtype)
    return reached * shares, None
