"""Weights of Keras 3's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.weights.conventions import KERAS
from fastrnn.weights.parts import Layer, as_array, build, described, exported, fitting, full_name, read_as, regate

__all__ = ["from_keras", "to_keras"]


def from_keras(
    weights: Sequence[Any], *, bidirectional: bool | None = None, reset_after: bool | None = None,
    batch_first: bool = True, dtype: Any = None, **options: Any,
) -> Layer:  # fmt: skip
    """Build a layer from the weights of Keras 3 layers: SimpleRNN, LSTM, GRU, alone, in Bidirectional, or stacked.

    Parameters
    ----------
    weights : sequence of array_like, or sequence of such sequences
        ``layer.get_weights()``, or a list of these from the lowest layer to the highest. Of a flat list, as from
        a model of recurrent layers or from StackedRNNCells, layers and directions are read off the shapes.
    bidirectional : bool, optional
        Default: whether the arrays of a layer are a forward and a backward one's. Must be given where the shapes allow
        both, two layers or two directions: in a flat list with I = H.
    reset_after : bool, optional
        Of a GRU. Default: as the shape of its bias says; without biases True, as in Keras.
    batch_first : bool, default True
        Keras's arrays are (B, T, .).
    dtype : float32 or float64, optional
        What to convert to. Default: the arrays' own; float16 and bfloat16 become float32.
    **options
        What weights do not show: `nonlinearity`, `dropout`, `rng`, and `update_gate`, what the layer's gate z is to do:
        Keras's weighs the old state, and for "replace" its rows are negated.

    Returns
    -------
    RNN, LSTM or GRU
        Keras's one bias is bias_ih, and bias_hh is zero; a GRU's two are the two.

    Raises
    ------
    TypeError, ValueError
        If there are no such arrays, shapes do not fit together, dtypes differ or are others. The message says what the
        shapes look like where they are another framework's.
    """
    bidirectional = None if bidirectional is None else validate.flag("bidirectional", bidirectional)
    reset_after = None if reset_after is None else validate.flag("reset_after", reset_after)
    groups, directions = _groups(weights, bidirectional)
    parts = []
    for k, group in enumerate(groups):
        cell = read_as(KERAS, f"weights of group {k}", group[0].shape, group[1].shape, options)
        bias = group[2] if len(group) == 3 else None
        if cell.keras.two_biases:
            after = bias.ndim == 2 if bias is not None else reset_after is not False
            if reset_after is not None and reset_after != after:
                shape = "(2, 3*H)" if reset_after else "(3*H,)"
                raise ValueError(f"reset_after={reset_after}: expected biases of shape {shape}, got {group[2].shape}")
            options[cell.keras.two_biases] = after
        elif reset_after is not None:
            raise TypeError(f"reset_after: expected only for a GRU, got it for Keras's {cell.kind.upper()}")
        part = {"weight_ih": group[0].T, "weight_hh": group[1].T}
        if bias is not None:
            two = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
            part |= dict(zip(("bias_ih", "bias_hh"), two, strict=True))
        parts.append({name: regate(a, cell.keras.gates, cell.gates) for name, a in part.items()})
    return build(parts, directions, cell.kind, dtype, options | {"batch_first": batch_first})


def to_keras(layer: Layer, *, sum_biases: bool = False) -> list[list[NDArray]]:
    """Return a layer's parameters for Keras's ``layer.set_weights``, a list for each layer: inverse of `from_keras`.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        With two directions, a list is that of a Bidirectional.
    sum_biases : bool, default False
        Where Keras has one bias (all but a GRU that resets after): whether bias_hh may be other than zero. It is added
        to bias_ih then, which is the same function but for rounding, and cannot be undone.

    Raises
    ------
    ValueError
        If Keras has no such layer (peepholes, projection), or bias_hh would be lost.
    """
    sum_biases = validate.flag("sum_biases", sum_biases)
    parts, cell, D = exported(layer, "Keras"), layer.cell, 1 + layer.bidirectional
    two = bool(cell.keras.two_biases) and cell.options[cell.keras.two_biases]
    lists: list[list[NDArray]] = [[] for _ in range(layer.num_layers)]
    for k, ours in enumerate(parts):
        part = {name: regate(a, cell.gates, cell.keras.gates) for name, a in ours.items()}
        arrays = [np.ascontiguousarray(part["weight_ih"].T), np.ascontiguousarray(part["weight_hh"].T)]
        if two and cell.bias:
            arrays.append(np.stack([part["bias_ih"], part["bias_hh"]]))
        elif cell.bias:
            if part["bias_hh"].any():
                if not sum_biases:
                    raise ValueError(
                        f"{full_name('bias_hh', *divmod(k, D))}: expected zeros, for Keras has one bias here; "
                        "sum_biases=True adds it to bias_ih"
                    )
                part["bias_ih"] = part["bias_ih"] + part["bias_hh"]
            arrays.append(part["bias_ih"])
        lists[k // D] += arrays
    return lists


def _groups(weights: Sequence[Any], bidirectional: bool | None) -> tuple[list[list[NDArray]], int]:
    """Arrays by layer and direction, [kernel, recurrent_kernel] or [kernel, recurrent_kernel, bias]; directions."""
    if not isinstance(weights, (list, tuple)) or not weights:
        raise TypeError(f"weights: expected a list from layer.get_weights(), got {described(weights)}")
    nested = isinstance(weights[0], (list, tuple))
    groups: list[list[NDArray]] = []
    counts, limit = set(), 2 if nested else None
    for k, part in enumerate(weights if nested else [weights]):
        where = f"weights[{k}]" if nested else "weights"
        if not isinstance(part, (list, tuple)):
            raise TypeError(f"{where}: expected a list from layer.get_weights(), got {described(part)}")
        found = _split(where, [as_array(f"{where}[{n}]", a) for n, a in enumerate(part)], limit)
        counts.add(len(found))
        groups += found
    if len({len(group) for group in groups}) > 1:
        raise ValueError("weights: expected biases in all layers and directions or in none, got them in some")
    if nested:
        if len(counts) > 1:
            raise ValueError("weights: expected 1 direction in each layer or 2 in each, got 1 in some and 2 in others")
        directions = max(counts)
        if bidirectional is not None and directions != 1 + bidirectional:
            raise ValueError(f"bidirectional={bidirectional}: got {directions} sets of arrays in a layer")
        return groups, directions
    sizes, hidden = [group[0].shape[0] for group in groups], groups[0][1].shape[0]
    as_stack = all(size == hidden for size in sizes[1:])
    upper = [size == 2 * hidden for size in sizes[2:]]
    as_pairs = len(groups) % 2 == 0 and sizes[0] == sizes[1] and all(upper)
    if bidirectional is None:
        if as_stack and as_pairs:
            raise ValueError("bidirectional: expected True or False, for these shapes may be 2 layers or 2 directions")
        bidirectional = as_pairs
    if not (as_pairs if bidirectional else as_stack):
        raise ValueError(
            f"weights: expected layers that read each other (H = {hidden}), got kernels for input sizes {sizes}"
        )
    return groups, 1 + bidirectional


def _split(where: str, arrays: list[NDArray], limit: int | None) -> list[list[NDArray]]:
    """A flat list by layer and direction, at most `limit` of them: threes with a bias, or twos."""
    shapes = [a.shape for a in arrays]
    if len(shapes) < 2:
        raise ValueError(f"{where}: expected kernel and recurrent_kernel, and maybe bias, got shapes {shapes}")
    read_as(KERAS, where, shapes[0], shapes[1], {})
    sizes = [size for size in (3, 2) if _are_groups_of(size, shapes) and len(shapes) <= size * (limit or len(shapes))]
    if len(sizes) != 1:
        got = "either" if sizes else f"shapes {shapes}"
        hint = "; a list for each layer tells" if sizes else ""
        raise ValueError(f"{where}: expected kernel, recurrent_kernel and bias of each, or no bias, got {got}{hint}")
    return [arrays[k : k + sizes[0]] for k in range(0, len(arrays), sizes[0])]


def _are_groups_of(size: int, shapes: list[tuple[int, ...]]) -> bool:
    """Whether these are the arrays of layers that have `size` each."""
    groups = [shapes[k : k + size] for k in range(0, len(shapes), size)]
    return all(len(group) == size and _is_group(group) for group in groups)


def _is_group(shapes: list[tuple[int, ...]]) -> bool:
    """Whether these are the arrays of one direction of one layer."""
    cells = fitting(KERAS, shapes[0], shapes[1])
    if not cells or len(shapes) == 2:
        return bool(cells)
    rows = shapes[1][1]
    return shapes[2] == (rows,) or (shapes[2] == (2, rows) and any(cell.keras.two_biases for cell in cells))
