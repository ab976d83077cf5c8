"""Weights of PyTorch's layers, and of fastrnn's, whose names are the same."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.engines.cell import CELLS
from fastrnn.pages import page
from fastrnn.weights.parts import Layer, Part, as_array, build, described, exported, full_name

__all__ = ["from_names", "from_torch", "to_torch"]

_NAME = re.compile(
    r"(weight_(?:ih|hh|hr)|bias_(?:ih|hh|c)|peephole|norm(?:_ih|_hh|_c)?(?=_l)|initial_[hcnm])(?:_l(\d+)(_reverse)?)?"
)


def from_torch(
    state_dict: Any, prefix: str = "", *, kind: str | None = None, dtype: Any = None,
    weights_update_gate: str | None = None, **options: Any,
) -> Layer:  # fmt: skip
    """Build a layer from a torch.nn.RNN, LSTM or GRU, or a cell of them, or from a state dict, also of a fastrnn layer.

    Sizes, layers, directions, biases and projection are read off names and shapes.

    Parameters
    ----------
    state_dict : mapping of str to array_like, or torch.nn.Module
        Arrays under names such as weight_ih_l0; a cell's weight_ih is that of layer 0. Tensors may require gradients
        and lie on any device. Of a module, `nonlinearity`, `batch_first` and `dropout` are read as well.
    prefix : str, default ""
        What the layer's names begin with, say "encoder.rnn."; other names are left alone.
    kind : {"rnn", "gru", "lstm", "mingru", "minlstm"}, optional
        What it must be. Default: what it is, by the rows of weight_hh for each hidden unit. Must be given for a MinGRU
        or MinLSTM, which have no weight_hh.
    dtype : float32 or float64, optional
        What to convert to. Default: the arrays' own; float16 and bfloat16 are widened to float32, which changes no
        value.
    weights_update_gate : {"keep", "replace"}, optional
        What gate z of a GRU weighs in the model that these weights come from: the old state ("keep", as in PyTorch) or
        the new one ("replace"). Must be given with update_gate="replace", for nothing shows it. Where the two differ,
        the rows of z are negated, which is the same function; where they are the same, weights are taken as they are.
        Default: "keep".
    **options
        What weights do not show: `nonlinearity`, `reset_after`, `update_gate`, `batch_first`, `dropout`, `rng`, with
        the constructors' defaults; `coupled=True` for an LSTM with coupled gates, which are as many as a GRU's.
        `update_gate` is what the layer's gate z is to do; by default what that of the weights does.

    Returns
    -------
    RNN, LSTM, GRU, MinGRU or MinLSTM

    Raises
    ------
    TypeError, ValueError
        If names or shapes are not those of a layer, or dtypes differ or are others. The message says what the
        shapes look like where they are another framework's.
    """
    torch = sys.modules.get("torch")  # where there is a module, it has been imported
    if torch is not None and isinstance(state_dict, torch.nn.Module):
        state_dict, read = _of_module(torch, state_dict, _checked(prefix))
        prefix, options = "", read | options
    if weights_update_gate is not None:
        validate.choice("weights_update_gate", weights_update_gate, ("keep", "replace"))
        options.setdefault("update_gate", weights_update_gate)
    elif isinstance(gate := options.get("update_gate"), str) and gate == "replace":
        raise ValueError(
            'update_gate="replace": expected weights_update_gate with it, got none; give "replace" if gate z of the '
            "model that these weights come from weighs the new state, so that they are taken as they are, and "
            '"keep" if it weighs the old one, as in torch.nn.GRU, so that the rows of z are negated'
        )
    return from_names(state_dict, prefix, kind, dtype, options, weights_update_gate or "keep")


def to_torch(layer: Layer, prefix: str = "") -> dict[str, NDArray]:
    """Return a layer's parameters as a state dict for torch.nn.RNN, LSTM or GRU: the inverse of `from_torch`.

    Raises
    ------
    TypeError, ValueError
        If PyTorch has no such layer: peepholes, a GRU with reset_after=False. A GRU with update_gate="replace" has the
        rows of gate z negated, which is the same function.
    """
    parts, prefix = exported(layer, "PyTorch"), _checked(prefix)
    D = 1 + layer.bidirectional
    return {
        prefix + full_name(name, *divmod(k, D)): array for k, part in enumerate(parts) for name, array in part.items()
    }


def from_names(
    tensors: Mapping[str, Any], prefix: str, kind: str | None, dtype: Any, options: dict[str, Any],
    update_gate: str | None,
) -> Layer:  # fmt: skip
    """A layer of the tensors under PyTorch's names; `update_gate` is that of `parts.build`."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"state_dict: expected names and arrays, or a module, got {described(tensors)}")
    for name in tensors:
        if not isinstance(name, str):
            raise TypeError(f"state_dict: expected names (str), got {name!r}, which is {type(name).__name__}")
    _checked(prefix)
    found: dict[tuple[int, int], Part] = {}
    for name, value in tensors.items():
        match = _NAME.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match:
            field, layer, reverse = match.groups()
            place = found.setdefault((int(layer or 0), int(bool(reverse))), {})
            if field in place:
                raise ValueError(f"{name}: expected a layer or a cell, got the names of both")
            place[field] = as_array(name, value)
    if not found:
        raise ValueError(_nothing_found(tensors, prefix))
    directions = 1 + max(d for _, d in found)
    weights = {"weight_ih"} if kind in CELLS and CELLS[kind].unconnected else {"weight_ih", "weight_hh"}
    fields = sorted({field for part in found.values() for field in part} | weights)
    parts: list[Part] = []
    layers = 1 + max(k for k, _ in found)
    while len(parts) < directions * layers:  # the first gap ends it: names may give any number
        k, d = divmod(len(parts), directions)
        parts.append(found.get((k, d), {}))
        missing = [prefix + full_name(field, k, d) for field in fields if field not in parts[-1]]
        if missing:
            raise ValueError(f"state_dict: expected every layer and direction to have {fields}, missing {missing}")
    return build(parts, directions, kind, dtype, options, update_gate)


def _checked(prefix: Any) -> str:
    """The prefix, if it is one."""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a str, got {type(prefix).__name__}")
    return prefix


def _of_module(torch: Any, module: Any, prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights of the layer at a prefix inside a module, and the options that it has."""
    recurrent = (torch.nn.RNNBase, torch.nn.RNNCellBase)
    parts = {f"{name}." if name else "": part for name, part in module.named_modules()}
    part = parts.get(prefix)
    if not isinstance(part, recurrent):
        there = ", ".join(repr(name) for name, other in parts.items() if isinstance(other, recurrent))
        got = "no module" if part is None else type(part).__name__
        raise ValueError(
            f"prefix: expected that of a torch.nn.RNN, LSTM, GRU or a cell, got {prefix!r}, where {got} is; "
            f"there {f'are: {there}' if there else 'is none'}"
        )
    names = getattr(part, "_flat_weights_names", ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    tensors = {name: getattr(part, name) for name in names}
    options = {name: getattr(part, name) for name in ("nonlinearity", "batch_first", "dropout") if hasattr(part, name)}
    return {name: value for name, value in tensors.items() if value is not None}, options


def _nothing_found(tensors: Mapping[str, Any], prefix: str) -> str:
    matches = [(name, re.search(r"(?:^|\.)(weight_hh)(?:_l0)?$", name)) for name in tensors]
    prefixes = [repr(name[: match.start(1)]) for name, match in matches if match]
    there = f"prefixes of recurrent layers there: {', '.join(prefixes)}" if prefixes else "no recurrent layer there"
    return f"prefix: expected names such as {prefix}weight_ih_l0, got none; {there}; {page('bridges')}"
