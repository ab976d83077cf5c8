"""Activations rounded as ONNX Runtime rounds them, to compare with it number by number.

Its DynamicQuantizeLSTM takes all of X, of every row and step, as numbers of 8 bits with one scale and zero point, and
then at every step h of all rows that have one. (On several threads it cuts the batch into as many parts, each with a
scale of its own.) So a row's result depends on the rows around it, on the steps to come and on the number of threads.
Source: GetQuantizationParameter, rnn_helpers.cc and uni_directional_lstm.cc of ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastrnn.engines.precision import Narrow
from fastrnn.onnx.spec import Call

__all__ = ["as_onnxruntime"]


class OneScale(Narrow):
    """A matrix whose left-hand factor is rounded, all rows of it with one scale."""

    __slots__ = ("_weights",)

    def __init__(self, weights: NDArray) -> None:
        self._weights = weights

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""
        N, K = self._weights.shape
        return N, K

    def __getitem__(self, rows: slice) -> OneScale:
        return OneScale(self._weights[rows])

    def product(self, x: NDArray) -> NDArray[np.float32]:
        """See `Narrow.product`."""
        return rounded(x) @ self._weights.T


def as_onnxruntime(call: Call) -> Call:
    """A call that rounds X and h so on the general path."""
    call, x = call.widened(), call.x.copy()
    longest = len(x) if call.lengths is None else call.lengths.max(initial=0)
    x[:longest] = rounded(x[:longest])
    return replace(call, x=x, r=tuple(map(OneScale, call.r)))


def rounded(a: NDArray) -> NDArray[np.float32]:
    """The values that 8 bits have of these, with one scale and one zero point for all."""
    with np.errstate(all="ignore"):
        least, largest = a.min(initial=0), a.max(initial=0)
        scale = np.float32(1) if least == largest else (largest - least) / np.float32(255)
        zero = np.rint(np.clip(-least / scale, 0, 255))
        return (np.clip(np.rint(a / scale) + zero, 0, 255) - zero) * scale
