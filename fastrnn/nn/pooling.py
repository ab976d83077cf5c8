"""From a sequence of outputs to one vector: its last state, or the mean or maximum over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn.layers import Recurrent
from fastrnn.nn.states import d_final, final
from fastrnn.stack import State

__all__ = ["POOLINGS", "PoolTape", "pool", "unpool"]

POOLINGS = ("last", "mean", "max")


@dataclass(frozen=True, slots=True)
class PoolTape:
    """What `unpool` needs."""

    kind: str
    shape: tuple[int, ...]  # y's
    state: State
    counts: NDArray | int  # valid steps of each row, (B, 1)
    highest: tuple[NDArray, NDArray] | None  # what the maxima were taken of, and they


def pool(kind: str, layer: Recurrent, y: NDArray, state: State, lengths: NDArray | None) -> tuple[NDArray, PoolTape]:
    """Pool outputs (T, B, D*O), zero past a sequence's end, to (B, D*O). Zero for a sequence without steps."""
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


def unpool(layer: Recurrent, tape: PoolTape, d: NDArray) -> tuple[NDArray | None, State | None]:
    """The gradients in y and in the final state, one of them, given that in what `pool` returned."""
    if tape.kind == "last":
        return None, d_final(layer, tape.state, d)
    if tape.kind == "mean":
        return np.broadcast_to(d / np.maximum(tape.counts, 1).astype(d.dtype), tape.shape), None
    assert tape.highest is not None
    valid, top = tape.highest
    reached = valid == top  # argmax takes twice as long, both ways; where several steps reach it, each gets its share
    shares = d / np.maximum(reached.sum(axis=0), 1).astype(d.dtype)
    return reached * shares, None
