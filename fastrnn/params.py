"""Parameters and gradients as plain arrays under names: loading them all or none, and what a backward run returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate

__all__ = ["Gradients", "HasParams", "Parameters", "copy_in"]


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradients of the loss, from a layer's ``backward``.

    Attributes
    ----------
    x : ndarray or None
        In the input; its shape. None where the input is not differentiable (an embedding's ids) or it was not wanted.
    state : ndarray, tuple of ndarray or None
        In the initial state; h, or (h, c) for an LSTM. None for layers that have no state.
    params : dict of str to ndarray
        In each parameter, under the parameter's name.
    """

    x: Any
    state: Any
    params: dict[str, NDArray]


class HasParams(Protocol):
    """Anything with named arrays: a layer, recurrent or not, or the gradients of one."""

    @property
    def params(self) -> dict[str, NDArray]: ...


class Parameters:
    """The parameters' way in and out of whatever has them in `params`."""

    def state_dict(self: HasParams) -> dict[str, NDArray]:
        """Return copies of the parameters by name; a recurrent layer's names are PyTorch's."""
        return {name: value.copy() for name, value in self.params.items()}

    def load_state_dict(self: HasParams, mapping: Mapping[str, Any]) -> None:
        """Copy parameters in, all of them or, on an error, none.

        Parameters
        ----------
        mapping : mapping of str to array_like
            Exactly this layer's names, each of the parameter's shape and the layer's dtype.

        Raises
        ------
        TypeError, ValueError
            If a name is missing or unknown, an array has a wrong shape or dtype, or a parameter is read-only.
        """
        copy_in(self.params, mapping)


def copy_in(params: dict[str, NDArray], mapping: Mapping[str, Any]) -> None:
    """Copy the arrays of `mapping` into those of `params`, all of them or, on an error, none.

    Raises
    ------
    TypeError, ValueError
        If a name is missing or unknown, an array has a wrong shape or dtype, or a parameter is read-only.
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(f"mapping: expected names and arrays, got {type(mapping).__name__}")
    missing = [name for name in params if name not in mapping]
    unknown = [name for name in mapping if name not in params]
    if missing or unknown:
        raise ValueError(f"mapping: expected {', '.join(params)}; missing {missing}, unknown {unknown}")
    checked = {}
    for name, value in params.items():
        new = validate.parameter(name, mapping[name], value.shape, value.dtype)
        shared = any(np.may_share_memory(new, other) for other in params.values())  # as in exchanging two of them
        checked[name] = new.copy() if shared else new
        if not value.flags.writeable:
            raise ValueError(f"{name}: expected a parameter that can be written, got a read-only array in params")
    for name, value in checked.items():
        params[name][...] = value
