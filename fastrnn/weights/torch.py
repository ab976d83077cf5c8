"""Weights of PyTorch's layers, and of fastrnn's, whose names are the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.weights.parts import Layer, Part, build, exported, full_name

__all__ = ["from_names", "from_torch", "to_torch"]

_NAME = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr|peephole)(?:_l(\d+)(_reverse)?)?")


def from_torch(
    state_dict: Mapping[str, Any], prefix: str = "", *, kind: str | None = None, dtype: Any = None, **options: Any
) -> Layer:
    """Build a layer from the state dict of a torch.nn.RNN, LSTM or GRU, of their cells, or of a fastrnn layer.

    Sizes, layers, directions, biases and projection are read off names and shapes.

    Parameters
    ----------
    state_dict : mapping of str to array_like
        Arrays under names such as weight_ih_l0; a cell's weight_ih is that of layer 0.
    prefix : str, default ""
        What the layer's names begin with, say "encoder.rnn."; other names are left alone.
    kind : {"rnn", "gru", "lstm"}, optional
        What it must be. Default: what it is, by the rows of weight_hh for each hidden unit.
    dtype : float32 or float64, optional
        What to convert to. Default: the arrays' own.
    **options
        What weights do not show: `nonlinearity`, `reset_after`, `update_gate`, `batch_first`, `dropout`, `rng`, with
        the constructors' defaults; `coupled=True` for an LSTM with coupled gates, which are as many as a GRU's. With
        update_gate="replace" the rows of gate z are negated, for PyTorch keeps.

    Returns
    -------
    RNN, LSTM or GRU

    Raises
    ------
    TypeError, ValueError
        If names or shapes are not those of a layer, or dtypes differ or are others. The message says what the
        shapes look like where they are another framework's.
    """
    return from_names(state_dict, prefix, kind, dtype, options)


def to_torch(layer: Layer, prefix: str = "") -> dict[str, NDArray]:
    """Return a layer's parameters as a state dict for torch.nn.RNN, LSTM or GRU: the inverse of `from_torch`.

    Raises
    ------
    ValueError
        If PyTorch has no such layer: peepholes, a GRU with reset_after=False. A GRU with update_gate="replace" has the
        rows of gate z negated, which is the same function.
    """
    parts = exported(layer, "PyTorch")
    D = 1 + layer.bidirectional
    return {
        prefix + full_name(name, *divmod(k, D)): array for k, part in enumerate(parts) for name, array in part.items()
    }


def from_names(
    tensors: Mapping[str, Any], prefix: str, kind: str | None, dtype: Any, options: dict[str, Any], keeps: bool = True
) -> Layer:
    """A layer of the tensors under PyTorch's names; `keeps` is that of `parts.build`."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"state_dict: expected names and arrays, got {type(tensors).__name__}")
    found: dict[tuple[int, int], Part] = {}
    for name, value in tensors.items():
        match = _NAME.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match:
            field, layer, reverse = match.groups()
            place = found.setdefault((int(layer or 0), int(bool(reverse))), {})
            if field in place:
                raise ValueError(f"{name}: expected a layer or a cell, got the names of both")
            place[field] = validate.as_ndarray(name, value)
    if not found:
        raise ValueError(_nothing_found(tensors, prefix))
    directions = 1 + max(d for _, d in found)
    fields = sorted({field for part in found.values() for field in part} | {"weight_ih", "weight_hh"})
    parts: list[Part] = []
    layers = 1 + max(k for k, _ in found)
    while len(parts) < directions * layers:  # the first gap ends it: names may give any number
        k, d = divmod(len(parts), directions)
        parts.append(found.get((k, d), {}))
        missing = [prefix + full_name(field, k, d) for field in fields if field not in parts[-1]]
        if missing:
            raise ValueError(f"state_dict: expected every layer and direction to have {fields}, missing {missing}")
    return build(parts, directions, kind, dtype, options, keeps)


def _nothing_found(tensors: Mapping[str, Any], prefix: str) -> str:
    matches = [(name, re.search(r"(?:^|\.)(weight_hh)(?:_l0)?$", name)) for name in tensors]
    prefixes = [repr(name[: match.start(1)]) for name, match in matches if match]
    there = f"prefixes of recurrent layers there: {', '.join(prefixes)}" if prefixes else "no recurrent layer there"
    return f"prefix: expected names such as {prefix}weight_ih_l0, got none; {there}"
