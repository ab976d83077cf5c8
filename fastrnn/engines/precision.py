"""Weights of fewer bits, and what a product with them is: bfloat16 and int8, for inference.

docs/math.md says why the scheme is as it is. The reference engine multiplies as it stands here; the compiled engines'
kernels (csrc/kernels/narrow_body.h) give the same bits with int8, and with bfloat16 the same within its rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PRECISIONS", "BFloat16", "Int8", "Narrow", "narrowed", "quantized_rows"]

LARGEST = np.float32(127)  # the range is symmetric: -127 to 127
# The largest value of a row of activations that is less counts as zero: its reciprocal would be infinite.
LEAST = np.float32(2.0**-100)
# So many products of int8 are summed at most: 2**17 * 128 * 127 is less than 2**31, which an integer of 32 bits holds.
MOST_SUMMED = 1 << 17


class Narrow:
    """A matrix (N, K) of weights in fewer bits. ``x @ narrow.T`` is float32, as it is for an array."""

    __slots__ = ()
    __array_ufunc__ = None  # so that NumPy leaves `array @ narrow` to __rmatmul__
    precision: str

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""
        raise NotImplementedError

    @property
    def T(self) -> Transposed:  # noqa: N802
        """The right-hand factor of a product."""
        return Transposed(self)

    def product(self, x: NDArray) -> NDArray[np.float32]:
        """Return x (rows, K) times the transpose: (rows, N)."""
        raise NotImplementedError

    def widened(self) -> NDArray[np.float32]:
        """Return the values, which float32 has without rounding in bfloat16, and rounded once in int8."""
        raise NotImplementedError


class Transposed:
    """The transpose of a `Narrow`, of use as a right-hand factor only."""

    __slots__ = ("_narrow",)
    __array_ufunc__ = None

    def __init__(self, narrow: Narrow) -> None:
        self._narrow = narrow

    def __rmatmul__(self, x: NDArray) -> NDArray[np.float32]:
        return self._narrow.product(x)


class BFloat16(Narrow):
    """Weights rounded to the upper half of a float32, to nearest, ties to even.

    Attributes
    ----------
    bits : ndarray of uint16
        (N, K).
    """

    __slots__ = ("bits",)
    precision = "bfloat16"

    def __init__(self, bits: NDArray[np.uint16]) -> None:
        self.bits = bits

    @classmethod
    def of(cls, weights: NDArray[np.float32]) -> BFloat16:
        """Round weights (N, K)."""
        words = np.ascontiguousarray(weights, np.float32).view(np.uint32)
        rounded = (words + 0x7FFF + (words >> 16 & 1)) >> 16
        return cls(np.where(np.isnan(weights), words >> 16 | 0x40, rounded).astype(np.uint16))

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""
        N, K = self.bits.shape
        return N, K

    def __getitem__(self, rows: slice) -> BFloat16:
        return BFloat16(self.bits[rows])

    def __reduce__(self) -> tuple[Any, ...]:
        return BFloat16, (self.bits,)

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.bits.nbytes

    def copy(self) -> BFloat16:
        """Return one that shares no memory with this one."""
        return BFloat16(self.bits.copy())

    def product(self, x: NDArray) -> NDArray[np.float32]:
        """See `Narrow.product`."""
        return x @ self.widened().T

    def widened(self) -> NDArray[np.float32]:
        """See `Narrow.widened`."""
        return (self.bits.astype(np.uint32) << 16).view(np.float32)


class Int8(Narrow):
    """Weights as integers with a scale for each row: w is about ``values * scales[:, None]``.

    Attributes
    ----------
    values : ndarray of int8
        (N, K).
    scales : ndarray of float32
        (N,).

    Raises
    ------
    ValueError
        If there are more than 131,072 weights in a row.
    """

    __slots__ = ("scales", "values")
    precision = "int8"

    def __init__(self, values: NDArray[np.int8], scales: NDArray[np.float32]) -> None:
        if values.shape[1] > MOST_SUMMED:
            raise ValueError(f"precision: expected at most {MOST_SUMMED} weights a row for int8, got {values.shape[1]}")
        self.values, self.scales = values, scales

    @classmethod
    def of(cls, weights: NDArray[np.float32]) -> Int8:
        """Round weights (N, K) to multiples of a 127th of each row's largest magnitude.

        Raises
        ------
        ValueError
            If a weight is not finite, or there are more than 131,072 in a row.
        """
        weights = np.asarray(weights, np.float32)
        if not np.isfinite(weights).all():
            raise ValueError("precision: expected finite weights for int8, got infinities or NaN")
        values, scales = quantized_rows(weights)
        return cls(values, scales)

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""
        N, K = self.values.shape
        return N, K

    def __getitem__(self, rows: slice) -> Int8:
        return Int8(self.values[rows], self.scales[rows])

    def __reduce__(self) -> tuple[Any, ...]:
        return Int8, (self.values, self.scales)

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.values.nbytes + self.scales.nbytes

    def copy(self) -> Int8:
        """Return one that shares no memory with this one."""
        return Int8(self.values.copy(), self.scales.copy())

    def product(self, x: NDArray) -> NDArray[np.float32]:
        """See `Narrow.product`."""
        values, scales = quantized_rows(x)
        # float64 sums these integers without rounding
        sums = values.astype(np.float64) @ self.values.T.astype(np.float64)
        return sums.astype(np.float32) * (scales[:, None] * self.scales)

    def widened(self) -> NDArray[np.float32]:
        """See `Narrow.widened`."""
        return self.values * self.scales[:, None]


PRECISIONS: dict[str, type[BFloat16] | type[Int8] | None] = {"float32": None, "bfloat16": BFloat16, "int8": Int8}


def narrowed(weights: Any, precision: str) -> Any:
    """A copy of a matrix of weights in this precision; one that is `Narrow` already stays as it is."""
    kind = None if isinstance(weights, Narrow) else PRECISIONS.get(precision)
    return weights.copy() if kind is None else kind.of(weights)


def quantized_rows(x: NDArray) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each row of x (rows, K) to integers from -127 to 127 and a scale, ``x = values * scales[:, None]``.

    A row whose values are all less than 2**-100 is zeros. The scale of a row with an infinity or NaN is NaN.
    """
    x = np.asarray(x, np.float32)
    largest = np.abs(x).max(axis=1, initial=0)  # NaN if there is one
    finite, zero = np.isfinite(largest), largest < LEAST
    inverse = LARGEST / np.where(finite & ~zero, largest, 1)
    values = np.where((finite & ~zero)[:, None], np.rint(x * inverse[:, None]), 0)
    scales = np.where(finite, np.where(zero, 0, largest / LARGEST), np.nan)
    return values.astype(np.int8), scales.astype(np.float32)
