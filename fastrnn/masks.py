"""Masked calls: the steps that are run, moved together, so that engines need not know of masks.

A masked step leaves the state as it is, so a sequence with masked steps is the sequence without them. So the valid rows
alone are run, one step after another, as in PyTorch's PackedSequence, and the results are put back into their places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastrnn.engines import memory
from fastrnn.stack import Stack

__all__ = ["ValidRows"]


class ValidRows:
    """Where the valid rows of a call lie among the caller's rows, and what becomes of the others.

    A caller's arrays are (*shape, n), shape being that of x without its last axis; the engines' are (rows, 1, n).
    """

    __slots__ = ("_at", "_held", "_order", "_resets_at", "_shape", "ends", "lengths", "starts")

    def __init__(self, valid: NDArray[np.bool_], stack: Stack, batched: bool, hold: bool) -> None:
        """`valid` (T, B) is true at one step at least; `hold` says whether the other steps repeat outputs."""
        T, B = valid.shape
        self._shape = stack.to_caller(valid[..., None], batched).shape[:-1]
        counts = valid.sum(axis=0, dtype=np.int64)
        self._order = np.argsort(-counts, kind="stable")  # engines want the longest sequence first
        self.lengths = counts[self._order]
        rank, t = np.nonzero(valid.T[self._order])
        k = np.arange(len(t)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        rows = np.bincount(k)  # of each step
        self.starts = np.cumsum(rows, dtype=np.int64) - rows
        row, b = self.starts[k] + rank, self._order[rank]  # t, b is step k of the row's sequence
        self._resets_at = k, rank, t, b
        self._at = np.empty(len(t), np.intp)
        self._at[row] = b * T + t if stack.batch_first and batched else t * B + b
        self.ends = T - valid[::-1].argmax(axis=0)
        self.ends[counts == 0] = 0
        self._held = None
        if hold:
            places = np.zeros((T, B), np.intp)
            places[t, b] = row
            self._held = _Held(valid, places, stack, batched)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the caller's x, but for its last axis."""
        return self._shape

    def resets(self, resets: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        """Resets (T, B) as the valid steps meet them: one at a masked step comes before the next valid one."""
        if resets is None:
            return None
        k, rank, t, b = self._resets_at
        so_far = np.cumsum(resets, axis=0, dtype=np.intp)[t, b]
        before = np.where(k == 0, 0, np.roll(so_far, 1))
        moved = np.zeros((len(self.starts), len(self._order)), np.uint8)
        moved[k, rank] = so_far > before
        return moved

    def sorted(self, h: NDArray, c: NDArray | None) -> tuple[NDArray, NDArray | None]:
        """A state, (L*D, B, .) each, with the longest sequence first."""
        return h.take(self._order, axis=1), None if c is None else c.take(self._order, axis=1)

    def unsorted(self, h: NDArray, c: NDArray | None) -> tuple[NDArray, NDArray | None]:
        """The inverse of `sorted`."""
        back = np.argsort(self._order)
        return h.take(back, axis=1), None if c is None else c.take(back, axis=1)

    def gather(self, a: NDArray) -> NDArray:
        """The valid rows of a caller's array."""
        return _take(a.reshape(-1, a.shape[-1]), self._at)[:, None]

    def scatter(self, rows: NDArray) -> NDArray:
        """A caller's array from the valid rows, zero elsewhere."""
        result = memory.zeros((int(np.prod(self._shape)), rows.shape[-1]), rows.dtype)
        result[self._at] = rows[:, 0]
        return result.reshape(*self._shape, -1)

    def outputs(self, y: NDArray) -> NDArray:
        """The caller's y."""
        return self.scatter(y) if self._held is None else self._held.repeat(y).reshape(*self._shape, -1)

    def outputs_backward(self, dy: NDArray) -> NDArray:
        """The gradient in the valid rows of y, from that in the caller's."""
        return self.gather(dy) if self._held is None else self._held.sum(dy)


class _Held:
    """Which output each step shows: its direction's last one, in running order, or zeros before the first.

    Outputs of two directions, (rows, 1, D*O), are rows of O values here, for each direction holds its own.
    """

    __slots__ = ("_directions", "_nowhere", "_source")

    def __init__(self, valid: NDArray[np.bool_], places: NDArray[np.intp], stack: Stack, batched: bool) -> None:
        T, B = valid.shape
        D = self._directions = len(stack.directions)
        source, nowhere = np.empty((T, B, D), np.intp), np.empty((T, B, D), np.bool_)
        for d, reverse in enumerate(stack.directions):
            order = slice(None, None, -1) if reverse else slice(None)
            latest = np.maximum.accumulate(np.where(valid[order], np.arange(T)[:, None], -1), axis=0)
            source[order, :, d] = places[order][latest, np.arange(B)] * D + d
            nowhere[order, :, d] = latest < 0
        self._source = stack.to_caller(source, batched).reshape(-1)
        self._nowhere = np.flatnonzero(stack.to_caller(nowhere, batched))

    def repeat(self, y: NDArray) -> NDArray:
        """(T*B*D, O): what each step shows."""
        shown = _take(y.reshape(len(y) * self._directions, -1), self._source)
        shown[self._nowhere] = 0
        return shown

    def sum(self, dy: NDArray) -> NDArray:
        """The gradient in each row of y: the sum of those where it is shown."""
        D, source = self._directions, self._source.copy()
        rows = source.max() + 1
        source[self._nowhere] = rows  # behind the others
        order = np.argsort(source, kind="stable")[: len(source) - len(self._nowhere)]
        first = np.searchsorted(source[order], np.arange(rows))  # each row is shown at its own step, at least
        shown = _take(dy.reshape(len(source), -1), order)
        return np.add.reduceat(shown, first, axis=0).reshape(rows // D, 1, -1)


def _take(rows: NDArray, index: NDArray[np.intp]) -> NDArray:
    """rows[index]; this way NumPy copies whole rows, several times as fast."""
    return rows.take(index, axis=0, out=memory.empty((len(index), rows.shape[1]), rows.dtype), mode="clip")
