"""Inference on NumPy's arrays, which all backends come to: a frozen layer, and Keras's meaning of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines
from fastrnn._core import native
from fastrnn.engines.cell import Cell
from fastrnn.frozen import Frozen
from fastrnn.weights import from_keras

__all__ = ["Weights", "infer"]


class _Packed(NamedTuple):
    made_for: tuple[Any, ...]
    arrays: list[NDArray]  # copies of Keras's
    frozen: Frozen


class Weights:
    """The packed weights of one layer, made again when Keras's have other values.

    Several threads may use them at once, for they are replaced and never changed.
    """

    def __init__(self) -> None:
        self._packed: _Packed | None = None

    def packed(self, cell: Cell, arrays: Sequence[NDArray]) -> Frozen:
        """A frozen layer of these arrays, contiguous and of the cell's dtype: kernel, recurrent_kernel and maybe bias.

        Comparing takes a quarter of the time that packing takes.
        """
        made_for, found = (cell, engines.current(), native.isa_selected()), self._packed
        addresses = [a.__array_interface__["data"][0] for a in arrays]
        if found is None or found.made_for != made_for or not native.holds(addresses, found.arrays):
            copies = [a.copy() for a in arrays]
            shown = {name: value for name, value in cell.options.items() if name in ("reset_after", "nonlinearity")}
            layer = from_keras(copies, bidirectional=False, **shown)
            found = self._packed = _Packed(made_for, copies, layer.freeze())
        return found.frozen


def infer(
    weights: Weights, call: Any, arrays: Sequence[Any], mask: NDArray | None, starts_with_state: bool
) -> tuple[NDArray, ...]:
    """The last output, or all outputs if they are wanted, and the final states, in the dtype of x.

    Parameters
    ----------
    weights, call
        The layer's, and the call but for its tensors.
    arrays : sequence of array_like
        `call.arrays()` in NumPy's memory.
    mask : ndarray of bool, optional
    starts_with_state : bool
        Where masked steps hold the last output: whether this is the initial h before the first valid step, as in
        Keras's backends JAX and NumPy, or zeros, as in the others.
    """
    result_dtype = arrays[0].dtype
    x, *others = (np.asarray(a).astype(call.cell.dtype, copy=False) for a in arrays)
    states, (h0, *_) = others[: 1 + call.cell.has_c], others
    frozen = weights.packed(call.cell, [np.ascontiguousarray(a) for a in others[len(states) :]])
    if call.reverse:
        x, mask = x[:, ::-1], None if mask is None else mask[:, ::-1]
    initial = (states[0][None], states[1][None]) if call.cell.has_c else states[0][None]
    y_holds = call.hold and call.all_outputs
    y, state = frozen(x, initial, mask=mask, masked_output="hold" if y_holds else "zero")
    h, *c = (a[0] for a in (state if isinstance(state, tuple) else (state,)))
    if not call.all_outputs:
        y = y[:, -1] if mask is not None and not call.hold else h
    if call.hold and mask is not None:
        begun = np.logical_or.accumulate(mask, axis=1)
        begun = begun if call.all_outputs else begun[:, -1]
        if not begun.all():
            before = h0 if starts_with_state else np.zeros_like(h0)
            y = np.where(begun[..., None], y, before[:, None] if call.all_outputs else before)
    return tuple(a.astype(result_dtype, copy=False) for a in (y, h, *c))
