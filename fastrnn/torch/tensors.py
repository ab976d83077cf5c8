"""PyTorch's tensors: which of them are ordinary, and their memory as NumPy's arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastrnn.engines import memory
from fastrnn.torch.private import is_dense

__all__ = ["DTYPES", "array", "plain"]

DTYPES: dict[Any, np.dtype] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
NUMBERS = DTYPES | {torch.int64: np.dtype(np.int64)}


def plain(t: Any, dtype: torch.dtype) -> bool:
    """Whether `t` is an ordinary tensor of that dtype, whose values lie in the CPU's memory, aligned."""
    return (
        (type(t) is Tensor or type(t) is torch.nn.Parameter)
        and t.dtype is dtype
        and is_dense(t)
        and (address := t.data_ptr()) > t.storage_offset() * 8  # null once the storage is freed
        and address % t.itemsize == 0
    )


def array(t: Tensor) -> NDArray:
    """A plain tensor's memory. (`t.numpy()` would forbid that the tensor's storage is ever resized.)"""
    return memory.view(t.data_ptr(), t.shape, None if t.is_contiguous() else t.stride(), NUMBERS[t.dtype], t)
