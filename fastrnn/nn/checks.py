"""What the kit's layers and losses check beyond `fastrnn.validate`, and the rows of an array."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate

__all__ = ["as_rows", "integers", "same_shape", "within"]


def as_rows(a: NDArray) -> NDArray:
    """All axes but the last as one; not reshape(-1, ...), which cannot tell the number of rows of an empty array."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def integers(name: str, value: Any) -> NDArray:
    """`value` as an array of intp."""
    a = validate.as_ndarray(name, value)
    if a.dtype.kind not in "iu" and a.size:  # an empty list is an array of floats, and fine
        raise TypeError(f"{name}: expected integers, got {a.dtype}")
    return a.astype(np.intp, copy=False)


def within(name: str, value: NDArray, end: int) -> None:
    """Integers of 0..end-1."""
    if value.size and (value.min() < 0 or value.max() >= end):
        worst = value.min() if value.min() < 0 else value.max()
        raise IndexError(f"{name}: expected integers in 0..{end - 1}, got {worst}")


def same_shape(name: str, value: NDArray, expected: tuple[int, ...]) -> None:
    """An array of exactly this shape."""
    if value.shape != expected:
        raise ValueError(f"{name}: expected {expected}, got {value.shape}")
