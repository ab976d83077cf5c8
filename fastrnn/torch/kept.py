"""What is kept of a module between its calls: how its weights looked when they were checked, and the weights packed.

PyTorch counts the changes of a tensor in `_version`, but it does not count all of them: fused optimizers,
`p.data.add_()`, NumPy's arrays over a parameter and other processes change the values without a trace. So the count is
no reason to use weights that were packed before. They are kept with a copy of the weights of which they were made, and
used if the module's weights still have the same bytes. Comparing takes a quarter of the time that packing takes.

The count only tells whether keeping is worth its memory: not where weights change at each step, in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from numpy.typing import NDArray
from torch import Tensor

from fastrnn import run as walk
from fastrnn._core import native
from fastrnn.engines import Engine, memory
from fastrnn.engines.cell import Cell
from fastrnn.engines.seam import Weights
from fastrnn.frozen import narrowed_weights
from fastrnn.stack import Stack
from fastrnn.torch.private import version
from fastrnn.torch.tensors import DTYPES, array

__all__ = ["Kept", "Packed", "Ready", "by_direction", "pack"]


class Packed(NamedTuple):
    """A copy of weights, packed for one pass."""

    made_for: tuple[Any, ...]
    arrays: list[NDArray]  # a copy, in PyTorch's order
    weights: list[Weights]  # the same arrays
    prepared: list[Any]


class Kept:
    """What is kept of one module. Several threads may use it at once, for its parts are replaced and never changed."""

    __slots__ = ("_frame", "_looks", "_packed", "_seen")
    final = False  # whether the weights never change: `fastrnn.torch.frozen.Frozen`
    narrow: list[Weights] | None = None  # the weights, if they are kept in fewer bits than the module's

    def __init__(self) -> None:
        self._looks: Any = None
        self._frame: tuple[Any, Any] = None, None
        self._packed: dict[bool, Packed | None] = {}  # of the pass forwards and of that backwards
        self._seen: dict[bool, Any] = {}

    @classmethod
    def of(cls, module: Any) -> Kept:
        """What is kept of a module, while it lives. It is no part of the module, so copies and pickles are without."""
        if module._frozen is not None:
            return module._frozen
        kept = _MODULES.get(module)
        if kept is None:
            kept = _MODULES[module] = cls()
        return kept

    def were_fit(self, weights: Sequence[Tensor], stack: Stack) -> bool:
        """Whether `are_fit` has been called with these weights, and they look as they did then, but for values."""
        looks = self._looks
        if looks is None or looks[0] != list(map(id, weights)) or looks[1] != stack:
            return False
        try:
            return looks[2:] == _looks(weights)
        except RuntimeError:  # one of them has no memory
            return False

    def are_fit(self, weights: Sequence[Tensor], stack: Stack) -> None:
        """Remember that a stack can have these weights."""
        self._looks = (list(map(id, weights)), stack, *_looks(weights))

    def packed(
        self, engine: Engine, stack: Stack, places: Sequence[int], flat: Sequence[Tensor], backward: bool
    ) -> Packed | None:
        """The weights packed for a pass, from an earlier call or now; None if nothing is to be kept yet."""
        made_for, found = (engine, native.isa_selected(), stack, places), self._packed.get(backward)
        if not all(map(Tensor.is_contiguous, flat)):
            return None
        addresses = list(map(Tensor.data_ptr, flat))
        if found is not None and found.made_for == made_for and native.holds(addresses, found.arrays):
            return found
        try:
            seen = made_for, addresses, list(map(version, flat))
        except RuntimeError:  # tensors made in inference mode have no count
            seen = made_for, addresses, []
        again = found is None and self._seen.get(backward) == seen
        self._seen[backward] = None if found is not None else seen
        self._packed[backward] = new = pack(made_for, [array(w).copy() for w in flat], backward) if again else None
        return new

    def frame(self, engine: Engine, stack: Stack, places: Sequence[int], flat: Sequence[Tensor]) -> native.NativeFrame:
        """What advances one sequence by one step, with the weights where they are."""
        key = engine, native.isa_selected(), stack, list(map(Tensor.data_ptr, flat))
        known, frame = self._frame
        if known != key:
            # No owner: to keep tensors alive is not our business, and the address is compared before each use.
            arrays = [memory.view(w.data_ptr(), w.shape, None, DTYPES[w.dtype], None) for w in flat]
            prepared = walk.prepare(stack, engine, by_direction(arrays, places, len(stack.cells)))
            frame = native.NativeFrame(prepared, stack.has_c > 0)
            self._frame = key, frame
        return frame


_MODULES: WeakKeyDictionary[Any, Kept] = WeakKeyDictionary()


def _looks(weights: Sequence[Tensor]) -> tuple[Any, ...]:
    """All that can change of an ordinary tensor without another taking its place, but for its values."""
    return (
        list(map(type, weights)),
        list(map(Tensor.data_ptr, weights)),
        list(map(Tensor.size, weights)),
        list(map(Tensor.stride, weights)),
        list(map(_dtype, weights)),
        list(map(Tensor.is_neg, weights)),
    )


_dtype = Tensor.dtype.__get__


def pack(made_for: tuple[Any, ...], arrays: list[NDArray], backward: bool, precision: str | None = None) -> Packed:
    """Pack arrays that nobody else has, PyTorch's flat weights, for an engine, an instruction set, cells and places."""
    engine, _, stack, places = made_for
    weights = by_direction(arrays, places, len(stack.cells))
    if precision is not None:
        weights = [narrowed_weights(w, precision) for w in weights]
    prepared = [engine.prepare(cell, w, backward) for cell, w in zip(stack.cells, weights, strict=True)]
    return Packed(made_for, arrays, weights, prepared)


def by_direction(arrays: Sequence[NDArray], places: Sequence[int], count: int) -> list[Weights]:
    """The parameters of each of so many layers and directions; `places` is that of a `Call`."""
    size = len(arrays) // count
    parts = ([*arrays[start : start + size], None] for start in range(0, len(arrays), size))
    return [Weights(*[part[place] for place in places]) for part in parts]  # type: ignore[arg-type]


class Ready:
    """An engine for weights that are packed already."""

    def __init__(self, engine: Engine, packed: Packed) -> None:
        self.name, self.operations, self.stepper = engine.name, engine.operations, engine.stepper
        self.forward, self.backward, self.backward_steps = engine.forward, engine.backward, engine.backward_steps
        self._prepared = dict(zip(map(id, packed.weights), packed.prepared, strict=True))

    def prepare(self, cell: Cell, weights: Weights, backward: bool = False) -> Any:
        """See `fastrnn.engines.Engine.prepare`."""
        return self._prepared[id(weights)]
