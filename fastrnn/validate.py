"""Checks of what callers pass, of whatever kind: `arguments.py` has those of a layer's call.

Every error names the argument, what was expected and what came, and is raised before any work is done.
"""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "addressable", "array", "as_ndarray", "at_least_zero", "choice", "contiguous", "contiguous_rows", "distinct_rows",
    "dtype", "fits_memory", "flag", "generator", "index", "integer", "integers", "mapping", "output", "parameter",
    "probability", "rows", "size",
]  # fmt: skip

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def array(name: str, value: Any, dtype: np.dtype) -> NDArray:
    """`value` as an array of exactly `dtype`, without a copy where it offers its memory.

    Python's numbers, and lists of them, have no dtype of their own and become that one.
    """
    if type(value) is not np.ndarray:
        given, value = value, as_ndarray(name, value)
        if value.dtype != dtype and _are_numbers(given):
            value = value.astype(dtype)
    if value.dtype != dtype:
        raise TypeError(
            f"{name}: expected an array of {dtype.name}, got {value.dtype}; "
            f"convert it with {name.split('[')[0]}.astype(np.{dtype.name}), or give the layer dtype=..."
        )
    return value


def _are_numbers(value: Any) -> bool:
    """Whether `value` is a number of Python's, or a list of such, or of such lists."""
    if isinstance(value, (list, tuple)):
        return all(map(_are_numbers, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def parameter(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    """A parameter as engines take it: of this shape and dtype, contiguous."""
    value = array(name, value, dtype)
    if value.shape != shape:
        raise ValueError(f"{name}: expected {shape}, got {value.shape}")
    flags = value.flags
    return value if flags.c_contiguous and flags.aligned else contiguous(value)  # most are: a call less


def contiguous(a: NDArray) -> NDArray:
    """`a` as engines take it, C-contiguous and aligned: itself, or a copy. (np.ascontiguousarray does not align.)"""
    flags = a.flags
    return a if flags.c_contiguous and flags.aligned else np.require(a, requirements=("C", "A"))


def contiguous_rows(a: NDArray) -> NDArray:
    """As `contiguous` where engines take strides: only the last axis has to be contiguous."""
    return a if a.ndim and a.strides[-1] == a.itemsize and a.flags.aligned else np.require(a, requirements=("C", "A"))


def output(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """An array that results can be written to."""
    if type(value) is not np.ndarray:
        raise TypeError(f"{name}: expected a numpy.ndarray, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{name}: expected an array of {dtype.name}, got {value.dtype}")
    if value.shape != shape:
        raise ValueError(f"{name}: expected {shape}, got {value.shape}")
    if not value.flags.carray:
        raise ValueError(f"{name}: expected a writeable C-contiguous array, got one that is not")


def rows(name: str, value: Any, B: int) -> NDArray:
    """Rows of a batch, by number or by mask, as an index."""
    index = as_ndarray(name, value)
    if index.dtype == np.bool_:
        if index.shape != (B,):
            raise ValueError(f"{name}: expected a mask of shape ({B},), got {index.shape}")
        return index
    if index.size == 0:
        return index.astype(np.intp).reshape(0)
    if index.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers or booleans, got {index.dtype}")
    if index.ndim > 1:
        raise ValueError(f"{name}: expected a row or a list of rows, got shape {index.shape}")
    if index.min() < 0 or index.max() >= B:
        worst = index.min() if index.min() < 0 else index.max()
        raise IndexError(f"{name}: expected rows in 0..{B - 1}, got {worst}")
    return index


def distinct_rows(name: str, value: Any, B: int) -> NDArray:
    """As `rows`, each at most once: a mask, or an array of int64 of our own."""
    index = rows(name, value, B)
    if index.dtype == np.bool_:
        return index
    index = np.array(index, np.int64).reshape(-1)
    ordered = np.sort(index)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if repeated.size:
        raise ValueError(f"{name}: expected distinct rows, got {repeated[0]} more than once")
    return index


def integer(name: str, value: Any) -> int:
    """An integer, of whatever integer type, but not a bool."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got a bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None


def integers(name: str, value: Any) -> NDArray[np.intp]:
    """`value` as an array of intp; an error unless it holds integers."""
    a = as_ndarray(name, value)
    if a.dtype.kind not in "iu" and a.size:  # NumPy makes an array of floats of an empty list, which is allowed
        raise TypeError(f"{name}: expected integers, got {a.dtype}")
    return a.astype(np.intp, copy=False)


def index(name: str, value: Any, count: int) -> int:
    """One of 0..count-1."""
    value = integer(name, value)
    if not 0 <= value < count:
        raise IndexError(f"{name}: expected 0 to {count - 1}, got {value}")
    return value


def size(name: str, value: Any, minimum: int = 1, maximum: int = sys.maxsize) -> int:
    """A size: an integer of at least `minimum` and at most `maximum`."""
    value = integer(name, value)
    if value < minimum:
        raise ValueError(f"{name}: expected an integer of at least {minimum}, got {value}")
    if maximum < value <= sys.maxsize:
        raise ValueError(f"{name}: expected an integer of at most {maximum}, got {value}")
    if value > sys.maxsize:
        raise ValueError(f"{name}: expected a size that fits this machine, got {value}")
    return value


def flag(name: str, value: Any) -> bool:
    """A switch: a bool, or something NumPy calls one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: Any, options: tuple[str, ...]) -> str:
    """One of a few words."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {', '.join(map(repr, options))}, got {type(value).__name__}")
    if value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def generator(name: str, value: Any) -> np.random.Generator:
    """A source of random numbers: a Generator itself, or one from a seed; None gives another each time."""
    if isinstance(value, (list, tuple)) and any(isinstance(item, (list, tuple)) for item in value):
        raise TypeError(f"{name}: expected a seed or a numpy.random.Generator, got a {type(value).__name__} of lists")
    try:
        return np.random.default_rng(value)  # it crashes on a list that holds itself
    except (TypeError, ValueError) as error:
        message = f"{name}: expected a seed or a numpy.random.Generator, got {value!r} ({error})"
        raise type(error)(message) from None


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Arrays under names."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected names and arrays, got {type(value).__name__}")
    return value


def dtype(value: Any) -> np.dtype:
    """A dtype that the kernels serve."""
    try:
        result = np.dtype(value)
    except (TypeError, ValueError):
        raise TypeError(f"dtype: expected float32 or float64, got {value!r}") from None
    if value is None or result not in DTYPES:  # NumPy reads None as float64
        raise TypeError(f"dtype: expected float32 or float64, got {value if value is None else result}")
    return result


def probability(name: str, value: Any) -> float:
    """A number in [0, 1)."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number from 0 up to but not including 1, got {type(value).__name__}")
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected a number from 0 up to but not including 1, got {value}")
    return float(value)


def at_least_zero(name: str, value: float, infinite: bool = False) -> float:
    """A number of at least 0: a finite one, or also an infinite one."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}") from None
    except OverflowError:  # of an integer
        raise ValueError(f"{name}: expected a finite number of at least 0, got an integer beyond all floats") from None
    if not 0 <= number < math.inf and not (infinite and number == math.inf):
        raise ValueError(f"{name}: expected a number of at least 0, got {value}")
    return number


def clip(name: str, value: Any) -> float | None:
    """A bound of what activations are given, or None: a number that float32 has, above 0."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number or None, got {type(value).__name__}")
    if not float(np.finfo(np.float32).tiny) <= value <= float(np.finfo(np.float32).max):
        raise ValueError(f"{name}: expected a number from 1.2e-38 to 3.4e38, or None, got {value}")
    return float(value)


def addressable(name: str, *sizes: int) -> None:
    """Raise if so many elements have more bytes than an address can count."""
    total = 16  # bytes of the widest value, twice over for both directions
    for n in sizes:
        total *= max(n, 1)
    if total > sys.maxsize:
        product = " * ".join(map(str, sizes))
        raise ValueError(f"{name}: expected sizes whose product can be addressed, got {product} elements")


def fits_memory(name: str, size: int) -> None:
    """Raise if so many bytes are more than the machine's memory: whoever fills them would be ended for it."""
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system says
        return
    if size > there > 0:
        raise ValueError(
            f"{name}: expected sizes that this machine's {there / 1e9:.1f} GB hold, got {size / 1e9:.1f} GB"
        )


def as_ndarray(name: str, value: Any) -> NDArray:
    """`value` as an array, without a copy where it offers its memory."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array without a mask, got a masked array; use mask= or lengths=")
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        result = np.asarray(value)
    except Exception as error:
        raise TypeError(f"{name}: expected an array on the CPU, got {type(value).__name__} ({error})") from error
    if result.dtype == object:
        raise TypeError(f"{name}: expected an array of numbers, got {type(value).__name__} of objects")
    return result
