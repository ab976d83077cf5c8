"""Checks that the kit's layers and losses need in addition to `fastrnn.validate`, and the rows of an array."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate

__all__ = ["as_rows", "floats", "integers", "same_shape", "within"]


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


def integers(name: str, value: Any) -> NDArray:
    """Return `value` as an array of intp; an error unless it holds integers."""
    a = validate.as_ndarray(name, value)
    if a.dtype.kind not in "iu" and a.size:  # NumPy makes an array of floats of an empty list, which is allowed
        raise TypeError(f"{name}: expected integers, got {a.dtype}")
    return a.astype(np.intp, copy=False)


def within(name: str, value: NDArray, end: int) -> None:
    """Check that all integers are in 0..end-1."""
    if value.size and (value.min() < 0 or value.max() >= end):
        worst = value.min() if value.min() < 0 else value.max()
        raise IndexError(f"{name}: expected integers in 0..{end - 1}, got {worst}")


def same_shape(name: str, value: NDArray, expected: tuple[int, ...]) -> None:
    """Check that an array has exactly this shape."""
    if value.shape != expected:
        raise ValueError(f"{name}: expected {expected}, got {value.shape}")
