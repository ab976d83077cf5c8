"""Gradients by central differences, to compare computed gradients with."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["central_differences"]


def central_differences(
    losses: Callable[[], NDArray], variables: dict[str, NDArray], step: float = 1e-5
) -> dict[str, NDArray]:
    """Return the gradients of several losses at once: name -> (losses, *shape).

    `losses` computes the losses from the variables' arrays, whose elements are changed one at a time and restored.
    """
    gradients = {}
    for name, variable in variables.items():
        flat = variable.reshape(-1)
        assert np.shares_memory(flat, variable)
        columns = []
        for k, value in enumerate(flat.tolist()):
            flat[k] = value + step
            above = losses()
            flat[k] = value - step
            below = losses()
            flat[k] = value
            columns.append((above - below) / (2 * step))
        gradients[name] = np.stack(columns, axis=1).reshape(-1, *variable.shape)
    return gradients
