"""Checks that the kit's layers and losses need in addition to `fastrnn.validate`, and the rows of an array."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.validate import integers

__all__ = ["as_rows", "floats", "integers", "part", "same_shape", "width", "within"]


def as_rows(a: NDArray) -> NDArray:
    """Return `a` with all axes but the last joined to one, C-contiguous and aligned, as operations take it.

    reshape(-1, ...) would fail for an empty array, whose number of rows it cannot compute.
    """
    return validate.contiguous(a.reshape(math.prod(a.shape[:-1]), a.shape[-1]))


def floats(name: str, value: Any) -> NDArray:
    """Return `value` as an array; an error unless it is float32 or float64."""
    a = validate.as_ndarray(name, value)
    if a.dtype not in validate.DTYPES:
        raise TypeError(f"{name}: expected float32 or float64, got {a.dtype}; convert it with {name}.astype()")
    return a


def part(name: str, value: Any, *kinds: type) -> Any:
    """Return `value`; an error unless it is of one of these classes."""
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    return value


def width(name: str, value: Any) -> Any:
    """Return the output size of a part of any class; an error if it has none."""
    if isinstance(value, type) or not hasattr(value, "output_size"):
        raise TypeError(f"{name}: expected a part with an output_size, got {type(value).__name__}")
    return value.output_size


def within(name: str, value: NDArray, end: int) -> None:
    """Check that all integers are in 0..end-1."""
    if value.size and (value.min() < 0 or value.max() >= end):
        worst = value.min() if value.min() < 0 else value.max()
        raise IndexError(f"{name}: expected integers in 0..{end - 1}, got {worst}")


def same_shape(name: str, value: NDArray, expected: tuple[int, ...]) -> None:
    """Check that an array has exactly this shape."""
    if value.shape != expected:
        raise ValueError(f"{name}: expected {expected}, got {value.shape}")
