"""The shape of a whole recurrent layer, and how a caller's arrays lie in the engines' time-major ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastrnn.engines import memory
from fastrnn.engines.cell import Cell

__all__ = ["Stack", "State", "at", "direction_part", "state_to_caller"]

State: TypeAlias = "NDArray | tuple[NDArray, NDArray]"


@dataclass(frozen=True, slots=True)
class Stack:
    """Cells from bottom to top, directions, and the layout that the caller sees."""

    cells: tuple[Cell, ...]
    directions: int
    batch_first: bool

    @property
    def dtype(self) -> np.dtype:
        return self.cells[0].dtype

    @property
    def has_c(self) -> bool:
        return self.cells[0].kind == "lstm"

    @property
    def output_size(self) -> int:
        """Size of y's last axis: D*O."""
        return self.directions * self.cells[0].output_size

    def state_shapes(self, B: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Shapes of h and c of a batch of B."""
        LD, cell = len(self.cells) * self.directions, self.cells[0]
        return (LD, B, cell.output_size), (LD, B, cell.hidden_size)

    def names(self, layer: int, direction: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Field of `Weights` -> the parameter's full name (as in PyTorch) and shape."""
        suffix = f"_l{layer}" + ("_reverse" if direction else "")
        return {field: (field + suffix, shape) for field, shape in self.cells[layer].shapes().items()}

    def time_major(self, a: NDArray, batched: bool) -> NDArray:
        """A caller's array as a (T, B, .) view."""
        if not batched:
            return a[:, None, :]
        return a.swapaxes(0, 1) if self.batch_first else a

    def to_caller(self, a: NDArray, batched: bool) -> NDArray:
        """The inverse of `time_major`."""
        if not batched:
            return a[:, 0, :]
        return a.swapaxes(0, 1) if self.batch_first else a

    def empty(self, T: int, B: int, size: int) -> NDArray:
        """A new (T, B, size) view that is contiguous in the caller's layout."""
        if self.batch_first:
            return memory.empty((B, T, size), self.dtype).swapaxes(0, 1)
        return memory.empty((T, B, size), self.dtype)


def state_to_caller(h: NDArray, c: NDArray | None, batched: bool) -> State:
    """h, or (h, c) where there is a c; without the batch axis if the caller's x had none."""
    if not batched:
        h, c = h[:, 0, :], None if c is None else c[:, 0, :]
    return h if c is None else (h, c)


def at(states: NDArray | None, k: int) -> NDArray | None:
    """One layer and direction's part of a state that may be missing."""
    return None if states is None else states[k]


def direction_part(a: NDArray, direction: int, size: int) -> NDArray:
    """One direction's part of an array whose last axis holds D*O values."""
    return a[:, :, direction * size : (direction + 1) * size]
