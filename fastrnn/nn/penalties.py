"""What a loss is given beside the targets' part: penalties of the outputs of recurrent layers, with their gradients.

S. Merity, B. McCann, R. Socher, "Revisiting Activation Regularization for Language RNNs", arXiv:1708.01009 (2017).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines

__all__ = ["activation", "temporal_activation"]


def activation(rows: NDArray, weight: float) -> tuple[float, NDArray]:
    """Return weight times the mean square of all values, and its gradient."""
    count = max(1, rows.size)
    return weight * _squares(rows) / count, rows * rows.dtype.type(2 * weight / count)


def temporal_activation(y: NDArray, lengths: NDArray | None, weight: float) -> tuple[float, NDArray]:
    """Return weight times the mean square of the differences between neighbouring steps, and its gradient.

    y is (T, B, F). With `lengths`, steps after the end of a sequence are no neighbours.
    """
    d = y[1:] - y[:-1]
    if lengths is not None:
        d[np.arange(1, len(y))[:, None] >= lengths] = 0
    pairs = d[..., 0].size if lengths is None else int(np.maximum(np.asarray(lengths) - 1, 0).sum())
    count = max(1, pairs * y.shape[-1])
    dy = np.zeros_like(y)
    value = weight * _squares(d) / count
    d *= y.dtype.type(2 * weight / count)
    dy[1:] += d
    dy[:-1] -= d
    return value, dy


def _squares(a: NDArray) -> float:
    return engines.current().operations.squares([a])
