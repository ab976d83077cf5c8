"""Parameters and gradients under names: loading them all or none, what a backward run returns, gradients of rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike, NDArray

from fastrnn import validate

__all__ = [
    "FrozenParameters", "Gradients", "HasParams", "Parameters", "RowGradient", "added", "check_names", "copy_in",
    "names_of_arrays",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradients of the loss, from a layer's ``backward``.

    Attributes
    ----------
    x : ndarray or None
        In the input; its shape. None where the input is not differentiable (an embedding's ids) or it was not wanted.
    state : ndarray, tuple of ndarray or None
        In the initial state; h, or (h, c) for an LSTM. None for layers that have no state.
    params : dict of str to ndarray or RowGradient
        In each parameter, under the parameter's name.
    """

    x: Any
    state: Any
    params: dict[str, Any]


class RowGradient(NDArrayOperatorsMixin):
    """The gradient of a table of which a batch reads only some rows; those of all other rows are zero.

    NumPy sees the whole array: ``np.asarray(g)``, and every ufunc and operator, give what they give for `dense`. Only a
    multiplication or division by a number keeps the rows; these two are also the only ones in place.

    Parameters
    ----------
    ids : ndarray of int64
        (N,) the rows that were read, rising, each once.
    rows : ndarray
        (N, E) their gradients.
    shape : pair of int
        (V, E), that of the table.

    Attributes
    ----------
    ids, rows, shape
        As given.
    dtype : dtype
        That of `rows`.
    ndim : int
        2.
    """

    ndim = 2

    def __init__(self, ids: NDArray[np.int64], rows: NDArray, shape: tuple[int, ...]) -> None:
        self.ids, self.rows, self.shape = ids, rows, shape

    def __repr__(self) -> str:
        return f"RowGradient({len(self.ids)} rows of {self.shape}, {self.dtype})"

    @property
    def dtype(self) -> np.dtype:
        """That of the rows."""
        return self.rows.dtype

    def dense(self) -> NDArray:
        """Return the whole gradient as a new array (V, E)."""
        result = np.zeros(self.shape, self.dtype)
        result[self.ids] = self.rows
        return result

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        if copy is False:
            raise ValueError("copy: a RowGradient becomes an array only by a copy, got False")
        return self.dense().astype(dtype or self.dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "at" or any(isinstance(out, RowGradient) for out in kwargs.get("out", ())):
            raise TypeError("out: expected an array, got a RowGradient; its dense() is one")
        return getattr(ufunc, method)(*(a.dense() if isinstance(a, RowGradient) else a for a in inputs), **kwargs)

    def __mul__(self, factor: Any) -> Any:
        return self._of(self.rows * factor) if np.ndim(factor) == 0 else super().__mul__(factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Any:
        return self._of(self.rows / divisor) if np.ndim(divisor) == 0 else super().__truediv__(divisor)

    def __imul__(self, factor: Any) -> Any:
        if np.ndim(factor) != 0:
            return super().__imul__(factor)
        self.rows *= factor
        return self

    def __itruediv__(self, divisor: Any) -> Any:
        if np.ndim(divisor) != 0:
            return super().__itruediv__(divisor)
        self.rows /= divisor
        return self

    def _of(self, rows: NDArray) -> RowGradient:
        return RowGradient(self.ids, rows, self.shape)


class HasParams(Protocol):
    """Anything with named arrays: a layer, recurrent or not, or the gradients of one."""

    @property
    def params(self) -> dict[str, NDArray]: ...


class Parameters:
    """The parameters' way in and out of whatever has them in `params`."""

    __slots__ = ()

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


class FrozenParameters(Parameters):
    """What is frozen: its parameters can be read, and to train it is an error."""

    __slots__ = ()

    def forward(self, *args: Any, **options: Any) -> Any:
        """Raise a TypeError: what is frozen keeps nothing for gradients."""
        raise TypeError(
            f"forward: expected what can be trained, got a {type(self).__name__}, which is for inference only; "
            "train what it was frozen from, and freeze that again"
        )


def copy_in(params: dict[str, NDArray], mapping: Mapping[str, Any]) -> None:
    """Copy the arrays of `mapping` into those of `params`, all of them or, on an error, none.

    Raises
    ------
    TypeError, ValueError
        If a name is missing or unknown, an array has a wrong shape or dtype, or a parameter is read-only.
    """
    validate.mapping("mapping", mapping)
    check_names("mapping", mapping, params)
    checked = {}
    for name, value in params.items():
        if not value.flags.writeable:
            raise ValueError(f"{name}: expected a parameter that can be written, got a read-only array in params")
        new = validate.parameter(name, mapping[name], value.shape, value.dtype)
        shared = any(np.may_share_memory(new, other) for other in params.values())  # as in exchanging two of them
        checked[name] = new.copy() if shared else new
    for name, value in checked.items():
        params[name][...] = value


def check_names(argument: str, mapping: Collection[str], names: Collection[str]) -> None:
    """Raise a ValueError unless `mapping` has exactly these names."""
    missing = [name for name in names if name not in mapping]
    unknown = [name for name in mapping if name not in names]
    if missing or unknown:
        raise ValueError(f"{argument}: expected {', '.join(names)}; missing {missing}, unknown {unknown}")


def names_of_arrays(params: Mapping[str, NDArray]) -> list[list[str]]:
    """Return the names of each array, in order: usually one; a weight that two parts share has several."""
    names: dict[int, list[str]] = {}
    for name, array in params.items():
        names.setdefault(id(array), []).append(name)
    return list(names.values())


def added(gradients: Sequence[Any]) -> Any:
    """Return the gradient of an array, given those under each of its names."""
    if len(gradients) == 1:
        return gradients[0]
    total = np.zeros(gradients[0].shape, gradients[0].dtype)
    for g in gradients:
        if isinstance(g, RowGradient):
            total[g.ids] += g.rows
        else:
            total += g
    return total
