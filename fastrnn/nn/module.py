"""Modules: several parts as one. Their parameters are those of the parts, under "part.name"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.params import HasParams, Parameters, copy_in

__all__ = ["Module", "load_parameters", "parameters"]


class Module(Parameters):
    """Named parts and options; the base class of everything that is made of parts.

    `fastrnn.nn.load` rebuilds a module from a file by calling its class with the parts and options that were passed to
    this constructor, under the same names. A subclass whose constructor takes other arguments overrides `rebuilt`.

    Parameters
    ----------
    parts : mapping of str to layer or module or None
        Parts that are None are left out.
    **options
        Numbers, strings, booleans, None, or lists of these.

    Attributes
    ----------
    parts : dict of str to layer or module
    options : dict of str to object
    """

    def __init__(self, parts: Mapping[str, Any], **options: Any) -> None:
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.options = options
        dtypes = {value.dtype.name for value in self.params.values()}
        if len(dtypes) > 1:
            found = {name: {p.dtype.name for p in part.params.values()} for name, part in self.parts.items()}
            raise TypeError(f"parts: expected parameters of one dtype, got {found}")

    @classmethod
    def rebuilt(cls, parts: dict[str, Any], options: dict[str, Any]) -> Module:
        """Build a module from the `parts` and `options` of another."""
        return cls(**parts, **options)

    @property
    def params(self) -> dict[str, NDArray]:
        """All parameters under "part.name": the arrays themselves, not copies."""
        return parameters(self.parts)


def parameters(parts: Mapping[str, HasParams]) -> dict[str, NDArray]:
    """Join the parameters of several layers, or their gradients, into one dict.

    Parameters
    ----------
    parts : mapping of str to layer or gradients
        Anything with `params`.

    Returns
    -------
    dict of str to ndarray
        The arrays themselves, not copies, under "part.name".

    Examples
    --------
    >>> parts = {"embedding": Embedding(65, 32), "output": Linear(32, 65)}
    >>> list(parameters(parts))
    ['embedding.weight', 'output.weight', 'output.bias']
    """
    for name, part in validate.mapping("parts", parts).items():
        if isinstance(part, type) or not isinstance(getattr(part, "params", None), Mapping):
            raise TypeError(f"parts[{name!r}]: expected a layer or another part, got {type(part).__name__}")
    return {f"{part}.{name}": value for part, layer in parts.items() for name, value in layer.params.items()}


def load_parameters(parts: Mapping[str, HasParams], mapping: Mapping[str, Any]) -> None:
    """Copy parameters into several layers. On an error, none is changed.

    Parameters
    ----------
    parts : mapping of str to layer
        Anything with `params`.
    mapping : mapping of str to array_like
        Exactly the names that `parameters` gives, each of the parameter's shape and dtype.

    Raises
    ------
    TypeError, ValueError
        If a name is missing or unknown, or an array has a wrong shape or dtype.
    """
    copy_in(parameters(parts), mapping)
