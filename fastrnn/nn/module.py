"""Modules: several parts as one. Their parameters are those of the parts, under "part.name"."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.engines.precision import precisions_of
from fastrnn.layers import Recurrent
from fastrnn.params import HasParams, Parameters, copy_in
from fastrnn.segments import Keep, checked_keep

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
        if len(_dtypes(self)) > 1:
            found = {name: {dtype.name for dtype in _dtypes(part)} for name, part in self.parts.items()}
            raise TypeError(f"parts: expected parameters of one dtype, got {found}")

    def __repr__(self) -> str:
        frozen = "" if self.precision is None else f", precision={self.precision!r}"
        return f"<{type(self).__name__} of {', '.join(self.parts)}{frozen}>"

    @classmethod
    def rebuilt(cls, parts: dict[str, Any], options: dict[str, Any]) -> Module:
        """Build a module from the `parts` and `options` of another."""
        return cls(**parts, **options)

    @property
    def params(self) -> dict[str, NDArray]:
        """All parameters under "part.name": the arrays themselves, not copies."""
        return parameters(self.parts)

    @property
    def precision(self) -> Any:
        """What weights are kept in: a name, or a dict of the parts if these differ; None if nothing is frozen."""
        found = {name: getattr(part, "precision", None) for name, part in self.parts.items()}
        frozen = {name: precision for name, precision in found.items() if precision is not None}
        first = next(iter(frozen.values()), None)
        return first if all(precision == first for precision in frozen.values()) else frozen

    @property
    def keep(self) -> Any:
        """What tapes of its recurrent layers keep, in all parts, as for `fastrnn.LSTM.forward`; may be assigned.

        With "states", training needs less memory. A dict of the parts where these differ; None if there are none.
        """
        found = {name: part.keep for name, part in self.parts.items() if isinstance(part, Recurrent | Module)}
        found = {name: keep for name, keep in found.items() if keep is not None}
        first = next(iter(found.values()), None)
        return first if all(keep == first for keep in found.values()) else found

    @keep.setter
    def keep(self, value: Keep) -> None:
        keep = checked_keep("keep", value)
        for part in self.parts.values():
            if isinstance(part, Recurrent | Module):
                part.keep = keep

    def freeze(self, precision: str | None = None, keep: Iterable[str] = ()) -> Any:
        """Return a copy for inference, with weights packed once, and in fewer bits if these are asked for.

        Recurrent layers, linear layers and embeddings are frozen with their parameters of this moment. A part of a
        class of your own is frozen by its own method ``freeze(precision)``, or copied if it has none.

        Parameters
        ----------
        precision : {"float32", "bfloat16", "int8"}, optional
            What matrices and tables are kept in. Inputs, outputs, states and biases stay float32. Default: the dtype of
            the parameters.
        keep : iterable of str, optional
            Names of parts that keep that dtype: such as "output", "decoder.output" for a part of a part, or "rnn.0" for
            the lowest layer of a recurrent layer.

        Returns
        -------
        Module
            Of the same class. It answers as this one does, but to train it or to change its parameters is an error.
            `params` are the parameters as they are kept, read-only.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong type, `precision` is none of these, the parameters are not float32 and fewer bits
            are asked for, a name is not that of a part, a weight that becomes int8 is not finite, or a part is frozen
            already.
        """
        if self.precision is not None:
            raise TypeError(f"freeze: expected a {type(self).__name__} of which nothing is frozen, got {self!r}")
        if precision is not None:
            dtype = next(iter(_dtypes(self)), np.dtype(np.float32))
            precision = validate.choice("precision", precision, precisions_of(dtype))
        return type(self).rebuilt(_frozen(self.parts, precision, _names(keep)), self.options)


def _frozen(parts: Mapping[str, Any], precision: str | None, keep: list[str]) -> dict[str, Any]:
    """The parts frozen, but for those to keep."""
    kept: dict[str, list[str]] = {name: [] for name in parts}
    for name in keep:
        part, _, rest = name.partition(".")
        if part not in parts:
            raise ValueError(f"keep: expected names of parts ({', '.join(parts)}), got {name!r}")
        kept[part].append(rest)
    frozen = {}
    for name, part in parts.items():
        if not hasattr(part, "freeze"):
            frozen[name] = copy.deepcopy(part)
        elif not kept[name] or "" in kept[name]:
            frozen[name] = part.freeze(None if kept[name] else precision)
        elif isinstance(part, Module):
            frozen[name] = part.freeze(precision, kept[name])
        else:
            layers = [str(k) for k in range(part.num_layers)] if isinstance(part, Recurrent) else []
            if unknown := sorted(set(kept[name]) - set(layers)):
                there = [name, *(f"{name}.{k}" for k in layers)]
                raise ValueError(f"keep: expected one of {', '.join(there)}, got '{name}.{unknown[0]}'")
            own = part.dtype.name
            frozen[name] = part.freeze([own if k in kept[name] else precision or own for k in layers])
    return frozen


def _names(keep: Any) -> list[str]:
    if isinstance(keep, str) or not isinstance(keep, Iterable):
        raise TypeError(f"keep: expected names of parts, got {type(keep).__name__}")
    names = list(keep)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"keep: expected names (str), got {type(name).__name__}")
    return names


def _dtypes(part: HasParams) -> set[np.dtype]:
    """The dtypes of a part's parameters, but for those that are kept in fewer bits."""
    return {value.dtype for value in part.params.values()} - {np.dtype(np.int8), np.dtype(np.uint16)}


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
