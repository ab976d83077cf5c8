"""The shape of a whole recurrent layer, and how a caller's arrays lie in the engines' time-major ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastrnn.engines import memory
from fastrnn.engines.cell import Cell

__all__ = ["Stack", "StackOwner", "State", "at", "direction_part", "parts_of_c", "state_to_caller"]

State: TypeAlias = "NDArray | tuple[NDArray, ...]"


@dataclass(frozen=True)
class Stack:
    """Cells from bottom to top, directions, and the layout that the caller sees.

    The k-th of the cells, as of all lists of what each direction of each layer has, is direction k % D of layer k // D.
    """

    cells: tuple[Cell, ...]  # L*D
    directions: tuple[bool, ...]  # of each layer: whether it is reversed in time
    batch_first: bool
    learn_initial_state: bool = False

    @classmethod
    def of(
        cls, bottom: Cell, num_layers: int, directions: tuple[bool, ...], batch_first: bool,
        learn_initial_state: bool = False,
    ) -> Stack:  # fmt: skip
        """The stack whose lowest layer has this cell; the layers above read what all directions below give."""
        D = len(directions)
        upper = replace(bottom, input_size=D * bottom.output_size)
        return cls((bottom,) * D + (upper,) * (D * (num_layers - 1)), directions, batch_first, learn_initial_state)

    @property
    def num_layers(self) -> int:
        return len(self.cells) // len(self.directions)

    @property
    def dtype(self) -> np.dtype:
        return self.cells[0].dtype

    @property
    def has_c(self) -> int:
        return self.cells[0].has_c

    @property
    def output_size(self) -> int:
        """Size of y's last axis: D*O."""
        return len(self.directions) * self.cells[0].output_size

    @property
    def widest(self) -> int:
        """The largest number of values that a row has anywhere in a step."""
        cell = self.cells[0]
        return max(cell.input_size, self.output_size, (len(cell.gates) + 1) * cell.hidden_size)

    def state_shapes(self, B: int) -> tuple[tuple[int, int, int], ...]:
        """Shapes of h and, where cells have them, of c and so on, of a batch of B."""
        LD, cell = len(self.cells), self.cells[0]
        return ((LD, B, cell.output_size), *[(LD, B, cell.hidden_size)] * cell.has_c)

    def names(self, k: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Field of `Weights` -> the parameter's full name (as in PyTorch) and shape."""
        return self._names[k]

    @cached_property
    def _names(self) -> list[dict[str, tuple[str, tuple[int, ...]]]]:
        return [
            {field: (field + self._suffix(k), shape) for field, shape in cell.shapes().items()}
            for k, cell in enumerate(self.cells)
        ]

    def initial_names(self, k: int) -> dict[str, tuple[int, ...]]:
        """Full names and shapes of the learnt initial state: of h and, where cells have them, of c and so on."""
        if not self.learn_initial_state:
            return {}
        suffix, letters = self._suffix(k), self.cells[0].states
        return {
            f"initial_{letter}{suffix}": shape[2:] for letter, shape in zip(letters, self.state_shapes(1), strict=True)
        }

    def _suffix(self, k: int) -> str:
        layer, direction = divmod(k, len(self.directions))
        return f"_l{layer}" + ("_reverse" if self.directions[direction] else "")

    def options(self, dropout: float = 0.0, **dropouts: float) -> str:
        """The arguments of a layer's constructor, but for those at their defaults. (No layer has `reverse`.)"""
        cell = self.cells[0]
        options = [f"{cell.input_size}, {cell.hidden_size}"]
        options += [f"num_layers={self.num_layers}"] if self.num_layers > 1 else []
        options += ["bias=False"] if not cell.bias else []
        options += ["batch_first=True"] if self.batch_first else []
        options += [f"dropout={dropout}"] if dropout else []
        options += ["bidirectional=True"] if len(self.directions) == 2 else []
        options += ["reverse=True"] if self.directions == (True,) else []
        options += ["learn_initial_state=True"] if self.learn_initial_state else []
        defaults = cell.defaults()
        options += [f"{name}={value!r}" for name, value in cell.options.items() if value != defaults[name]]
        options += [f"{name}={value}" for name, value in dropouts.items() if value]
        options += [f"dtype={self.dtype.name}"] if self.dtype != np.float32 else []
        return ", ".join(options)

    def time_major(self, a: NDArray, batched: bool) -> NDArray:
        """A caller's array as a (T, B, .) view."""
        if not batched:
            return a[:, None, :]
        return a.swapaxes(0, 1) if self.batch_first else a

    def to_caller(self, a: NDArray, batched: bool) -> NDArray:
        """The inverse of `time_major`. Always a view, so that a caller cannot give the memory of a tape away."""
        if not batched:
            return a[:, 0, :]
        return a.swapaxes(0, 1) if self.batch_first else a[:]

    def empty(self, T: int, B: int, size: int) -> NDArray:
        """A new (T, B, size) view that is contiguous in the caller's layout."""
        if self.batch_first:
            return memory.empty((B, T, size), self.dtype).swapaxes(0, 1)
        return memory.empty((T, B, size), self.dtype)


class StackOwner:
    """What a layer says of itself, frozen or not, and a stream."""

    __slots__ = ()
    _stack: Stack

    @property
    def cell(self) -> Cell:
        """What one direction of the lowest layer computes: its gates, its options, its parameters' shapes."""
        return self._stack.cells[0]

    @property
    def input_size(self) -> int:
        """I: size of x's last axis."""
        return self.cell.input_size

    @property
    def hidden_size(self) -> int:
        """H: hidden units a layer and direction."""
        return self.cell.hidden_size

    @property
    def output_size(self) -> int:
        """D*O: size of y's last axis."""
        return self._stack.output_size

    @property
    def num_layers(self) -> int:
        """L: layers, one upon the other."""
        return self._stack.num_layers

    @property
    def bidirectional(self) -> bool:
        """Whether each layer also runs from the end to the start."""
        return len(self._stack.directions) == 2

    @property
    def dtype(self) -> np.dtype:
        """The dtype of parameters, inputs and outputs."""
        return self._stack.dtype

    def state_shapes(self, batch_size: int) -> tuple[tuple[int, int, int], ...]:
        """Return the shapes of a batch's state: of h (L*D, B, O) and, for an LSTM, of c (L*D, B, H).

        For an sLSTM those of h, c, n and m.
        """
        return self._stack.state_shapes(batch_size)


def state_to_caller(h: NDArray, c: NDArray | None, batched: bool, has_c: int = 1) -> State:
    """h, or (h, c) where there is a c; without the batch axis if the caller's x had none.

    Of a cell with several states in c each is an array of its own: (h, c, n, m).
    """
    if not batched:
        h, c = h[:, 0, :], None if c is None else c[:, 0, :]
    return h if c is None else (h, *parts_of_c(c, has_c))


def parts_of_c(c: NDArray | None, has_c: int) -> list[NDArray]:
    """The states that lie side by side in c (., has_c*H), each (., H)."""
    if c is None or has_c < 2:
        return [] if c is None else [c]
    return [np.ascontiguousarray(part) for part in np.split(c, has_c, axis=-1)]


def at(states: NDArray | None, k: int | slice) -> NDArray | None:
    """One layer and direction's part of a state that may be missing, or that of several."""
    return None if states is None else states[k]


def direction_part(a: NDArray, direction: int, size: int) -> NDArray:
    """One direction's part of an array (T, B, D*O) or (T, B, D, O)."""
    return a[:, :, direction * size : (direction + 1) * size] if a.ndim == 3 else a[:, :, direction]
