"""Masked calls: the steps that are run, moved together, so that engines need not know of masks.

A masked step leaves the state as it is, so a sequence with masked steps is the sequence without them. So the valid rows
alone are run, one step after another, as in PyTorch's PackedSequence, and the results are put back into their places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastrnn.engines import memory

__all__ = ["ValidRows"]


class ValidRows:
    """Where the valid rows of a call lie among the caller's rows, and what becomes of the others.

    A caller's arrays are (*shape, n): (T, B, n), with batch_first (B, T, n), or (T, n). The engines' are (rows, 1, n).
    """

    __slots__ = ("at", "ends", "held", "lengths", "order", "resets", "shape", "starts")

    def __init__(
        self, valid: NDArray[np.bool_], resets: NDArray[np.uint8] | None, shape: tuple[int, ...], batch_first: bool,
        held: tuple[bool, ...] = (),
    ) -> None:  # fmt: skip
        """`valid` (T, B) is true at one step at least.

        The outputs of other steps are zero, or they are held: of each direction, `held` says whether it is reversed.
        """
        (T, B), self.shape = valid.shape, shape
        counts = valid.sum(axis=0, dtype=np.int64)
        self.order = np.argsort(-counts, kind="stable")  # engines want the longest sequence first
        self.lengths = counts[self.order]
        rank, t = np.nonzero(valid.T[self.order])
        k = np.arange(len(t)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        of_step = np.bincount(k)
        self.starts = np.cumsum(of_step, dtype=np.int64) - of_step
        row, b = self.starts[k] + rank, self.order[rank]  # step t of sequence b is step k of the one of this rank
        self.at = np.empty(len(t), np.intp)  # each valid row's place among the caller's T*B
        self.at[row] = b * T + t if batch_first else t * B + b
        self.ends = np.where(counts > 0, T - valid[::-1].argmax(axis=0), 0)  # of the sequences, in the caller's order
        self.resets = None
        if resets is not None:  # one at a masked step comes before the next valid one
            so_far = np.cumsum(resets, axis=0, dtype=np.intp)[t, b]
            before = np.where(k == 0, 0, np.roll(so_far, 1))
            self.resets = np.zeros((len(self.starts), B), np.uint8)
            self.resets[k, rank] = so_far > before
        self.held = None
        if held:
            places = np.zeros((T, B), np.intp)
            places[t, b] = row
            self.held = Held(valid, places, batch_first, held)

    def sorted(self, h: NDArray, c: NDArray | None) -> tuple[NDArray, NDArray | None]:
        """A state, (L*D, B, .) each, with the longest sequence first."""
        return h.take(self.order, axis=1), None if c is None else c.take(self.order, axis=1)

    def unsorted(self, h: NDArray, c: NDArray | None) -> tuple[NDArray, NDArray | None]:
        """The inverse of `sorted`."""
        back = np.argsort(self.order)
        return h.take(back, axis=1), None if c is None else c.take(back, axis=1)

    def gather(self, a: NDArray) -> NDArray:
        """The valid rows of a caller's array."""
        return _take(a.reshape(-1, a.shape[-1]), self.at)[:, None]

    def scatter(self, rows: NDArray) -> NDArray:
        """A caller's array from the valid rows, zero elsewhere."""
        result = memory.zeros((int(np.prod(self.shape)), rows.shape[-1]), rows.dtype)
        result[self.at] = rows[:, 0]
        return result.reshape(*self.shape, -1)

    def outputs(self, y: NDArray) -> NDArray:
        """The caller's y."""
        return self.scatter(y) if self.held is None else self.held.repeat(y).reshape(*self.shape, -1)

    def outputs_backward(self, dy: NDArray) -> NDArray:
        """The gradient in the valid rows of y, from that in the caller's."""
        return self.gather(dy) if self.held is None else self.held.sum(dy)


class Held:
    """Which output each step shows: its direction's last one, in running order, or zeros before the first.

    Outputs of two directions, (rows, 1, D*O), are rows of O values here, for each direction holds its own.
    """

    __slots__ = ("_directions", "nowhere", "source")

    def __init__(
        self, valid: NDArray[np.bool_], places: NDArray[np.intp], batch_first: bool, directions: tuple[bool, ...]
    ) -> None:
        T, B = valid.shape
        D = self._directions = len(directions)
        source, nowhere = np.empty((T, B, D), np.intp), np.empty((T, B, D), np.bool_)
        for d, reverse in enumerate(directions):
            order = slice(None, None, -1) if reverse else slice(None)
            latest = np.maximum.accumulate(np.where(valid[order], np.arange(T)[:, None], -1), axis=0)
            source[order, :, d] = places[order][latest, np.arange(B)] * D + d
            nowhere[order, :, d] = latest < 0
        if batch_first:
            source, nowhere = source.swapaxes(0, 1), nowhere.swapaxes(0, 1)
        self.source, self.nowhere = source.reshape(-1), np.flatnonzero(nowhere)  # of the caller's T*B*D

    def repeat(self, y: NDArray) -> NDArray:
        """(T*B*D, O): what each step shows."""
        shown = _take(y.reshape(len(y) * self._directions, -1), self.source)
        shown[self.nowhere] = 0
        return shown

    def sum(self, dy: NDArray) -> NDArray:
        """The gradient in each row of y: the sum of those where it is shown."""
        D, source = self._directions, self.source.copy()
        rows = source.max() + 1
        source[self.nowhere] = rows  # behind the others
        order = np.argsort(source, kind="stable")[: len(source) - len(self.nowhere)]
        first = np.searchsorted(source[order], np.arange(rows))  # each row is shown at its own step, at least
        shown = _take(dy.reshape(len(source), -1), order)
        return np.add.reduceat(shown, first, axis=0).reshape(rows // D, 1, -1)


def _take(rows: NDArray, index: NDArray[np.intp]) -> NDArray:
    """rows[index]; this way NumPy copies whole rows, several times as fast."""
    return rows.take(index, axis=0, out=memory.empty((len(index), rows.shape[1]), rows.dtype), mode="clip")
