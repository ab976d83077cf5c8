"""Weights as plain arrays, in any order of gates: of other libraries, and of one's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.engines.cell import CELLS
from fastrnn.weights.parts import Layer, Part, as_array, build, described, regate

__all__ = ["from_arrays"]

_FIELDS = ("weight_ih", "weight_hh", "bias", "bias_ih", "bias_hh", "weight_hr", "peephole")
_UNCONNECTED = ("weight_ih", "bias", "bias_ih")  # of a cell whose gates do not see the state

# The cells' gates, sorted -> the cell's kind, gates in our order, and the options that make them so.
_CELLS = {
    "".join(sorted(cell.gates)): (kind, cell.gates, {"coupled": True} if cell.options.get("coupled") else {})
    for kind, cls in CELLS.items()
    for options in cls.structures({})
    for cell in [cls(1, 1, np.dtype(np.float32), **options)]
}


def from_arrays(
    arrays: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, order: str | None = None, transposed: bool = False,
    forget_bias: float = 0.0, bidirectional: bool = False, dtype: Any = None, **options: Any,
) -> Layer:  # fmt: skip
    """Build a layer from arrays whose meaning the caller knows: of other libraries, or of one's own equations.

    Parameters
    ----------
    arrays : mapping of str to array_like, or sequence of such mappings
        weight_ih (G*H, I) acts on x_t, weight_hh (G*H, H) on h_{t-1}. Biases are ``bias`` (G*H,), or bias_ih and
        bias_hh, of which one may be missing; without biases the layer has none. An LSTM may have weight_hr (P, H) and
        peephole (3, H), in the order i, f, o. A MinGRU or MinLSTM has no weight_hh and bias_hh. Instead of an array
        with all gates there may be a mapping from each gate's letter to its own array:
        ``{"i": W_i, "f": W_f, "o": W_o, "g": W_g}``.
        Of several layers a sequence, the lowest first; of two directions, each layer's forward and backward one.
    order : str, optional
        The gates in the order of the arrays' blocks, a letter each: i, f, g, o of an LSTM, i, g, o of one with coupled
        gates, r, z, n of a GRU, z, n of a MinGRU, i, f, n of a MinLSTM. What others call c, j or h (tilde) is g of an
        LSTM, n of the others. Default: "ifgo", "rzn", or what a mapping says.
    transposed : bool, default False
        Whether weights act from the right, x W: weight_ih is (I, G*H), weight_hh (H, G*H), weight_hr (H, P).
    forget_bias : float, default 0.0
        What the library adds to the forget gate when it runs: it becomes part of the bias of gate f.
    bidirectional : bool, default False
        Whether each two mappings are the directions of a layer.
    dtype : float32 or float64, optional
        What to convert to. Default: the arrays' own; float16 and bfloat16 become float32.
    **options
        What weights do not show: `nonlinearity`, `reset_after`, `update_gate`, `batch_first`, `dropout`, `rng`, with
        the constructors' defaults. They say what these arrays are for, and no array is changed for them:
        update_gate="replace" is for a gate z that weighs the new state.

    Returns
    -------
    RNN, LSTM, GRU, MinGRU or MinLSTM
        One bias is its bias_ih, and bias_hh is zero.

    Raises
    ------
    TypeError, ValueError
        If names, gates or shapes are not those of a layer, or dtypes differ or are others.
    """
    transposed, directions = validate.flag("transposed", transposed), 1 + validate.flag("bidirectional", bidirectional)
    forget_bias = _number("forget_bias", forget_bias)
    several = isinstance(arrays, (list, tuple))
    given = list(arrays) if isinstance(arrays, (list, tuple)) else [arrays]
    if not given or len(given) % directions:
        raise ValueError(f"arrays: expected {directions} mappings for each layer, got {len(given)}")
    gates = set() if order is None else {_known_gates("order", order)}
    parts: list[Part] = []
    for k, one in enumerate(given):
        where = f"arrays[{k}]" if several else "arrays"
        if not isinstance(one, Mapping):
            raise TypeError(f"{where}: expected names and arrays, got {described(one)}")
        unconnected = _are_unconnected(order, one.get("weight_ih"))
        known, needed = (_UNCONNECTED, 1) if unconnected else (_FIELDS, 2)
        if not set(known[:needed]) <= one.keys() <= set(known):
            names = ", ".join(known[:needed])
            raise ValueError(f"{where}: expected {names} and maybe {known[needed:]}, got {list(one)}")
        if "bias" in one and ("bias_ih" in one or "bias_hh" in one):
            raise ValueError(f"{where}: expected bias, or bias_ih and bias_hh, got {list(one)}")
        part = {
            "bias_ih" if name == "bias" else name: _stacked(f"{where}[{name!r}]", name, value, order, transposed, gates)
            for name, value in one.items()
        }
        _complete_biases(part, forget_bias != 0, ("bias_ih",) if unconnected else ("bias_ih", "bias_hh"))
        parts.append(part)
    if len(gates) > 1:
        raise ValueError(f"arrays: expected the gates of one kind of layer, got {' and '.join(sorted(gates))}")
    if any(part.keys() != parts[0].keys() for part in parts):
        raise ValueError(f"arrays: expected the same names in all, got {[sorted(part) for part in parts]}")
    kind, _, shown = _CELLS[gates.pop()] if gates else (None, "", {})
    layer = build(parts, directions, kind, dtype, shown | options, update_gate=None)
    if forget_bias:
        if "f" not in layer.cell.gates:
            raise ValueError(f"forget_bias: expected 0 for a layer without a gate f, got {forget_bias}")
        start = layer.cell.gates.index("f") * layer.hidden_size
        for name, value in layer.params.items():
            if name.startswith("bias_ih"):
                value[start : start + layer.hidden_size] += forget_bias
    return layer


def _number(name: str, value: Any) -> float:
    """A finite number."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    return float(value)


def _known_gates(name: str, letters: Any) -> str:
    """Letters of gates, each once, sorted: a key of `_CELLS`."""
    if not isinstance(letters, str):
        raise TypeError(f"{name}: expected a str, a letter for each gate, got {type(letters).__name__}")
    if "".join(sorted(letters)) not in _CELLS:
        known = ", ".join(repr(gates) for _, gates, _ in _CELLS.values())
        raise ValueError(
            f"{name}: expected the letters of {known} in any order, got {letters!r}; "
            "what others call c or j is g of an LSTM, and what they call h or c is n of a GRU"
        )
    return "".join(sorted(letters))


def _stacked(where: str, name: str, value: Any, order: str | None, transposed: bool, gates: set[str]) -> NDArray:
    """One parameter as an array in our shape and order of gates; what is learnt of its gates is added to `gates`."""
    axis = -1 if transposed and name.startswith("weight") else 0
    if name == "peephole" and isinstance(value, Mapping):
        rows = [as_array(f"{where}[{gate!r}]", value[gate]) for gate in "ifo" if gate in value]
        if len(rows) != len(value) or not rows or len({row.shape for row in rows}) > 1:
            raise ValueError(f"{where}: expected arrays (H,) of the gates i, f and o, got those of {list(value)}")
        return np.stack(rows)
    if isinstance(value, Mapping):
        if not all(isinstance(gate, str) and len(gate) == 1 for gate in value):
            raise ValueError(f"{where}: expected a letter for each gate, got {list(value)}")
        letters = _known_gates(where, "".join(value))
        blocks = {gate: as_array(f"{where}[{gate!r}]", a) for gate, a in value.items()}
        shapes = {a.shape for a in blocks.values()}
        if len(shapes) > 1 or () in shapes:
            raise ValueError(f"{where}: expected arrays of one shape, got {[a.shape for a in blocks.values()]}")
        gates.add(letters)
        value = np.concatenate([blocks[gate] for gate in _CELLS[letters][1]], axis=axis)
        return value.T if axis else value
    array = as_array(where, value)
    array = array.T if axis else array
    if order is None or name in ("weight_hr", "peephole"):
        return array
    if array.ndim == 0 or len(array) % len(order):
        axes = "columns" if axis else "rows"
        raise ValueError(
            f"{where}: expected as many {axes} for each of the gates {order!r}, got shape {np.shape(value)}"
        )
    return regate(array, order, _CELLS["".join(sorted(order))][1])


def _are_unconnected(order: Any, weight_ih: Any) -> bool:
    """Whether these are the gates, or the gates of these weights, of a cell whose gates do not see the state."""
    letters = order if order is not None else weight_ih if isinstance(weight_ih, Mapping) else ""
    found = _CELLS.get("".join(sorted(map(str, letters))))
    return found is not None and CELLS[found[0]].unconnected


def _complete_biases(part: Part, wanted: bool, names: tuple[str, ...]) -> None:
    """Add a bias of zeros where the other one is there, and all of these names where they are wanted."""
    if not wanted and "bias_ih" not in part and "bias_hh" not in part:
        return
    some = part.get("bias_ih", part.get("bias_hh"))
    zeros = np.zeros(part["weight_ih"].shape[:1], part["weight_ih"].dtype) if some is None else np.zeros_like(some)
    for name in names:
        part.setdefault(name, zeros)
