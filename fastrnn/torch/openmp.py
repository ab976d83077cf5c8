"""PyTorch's OpenMP threads, sent away before a call that wants the cores.

After a parallel operation libgomp's threads spin for about a millisecond. Workers of ours whose core they keep come too
late, and the call runs alone: on 2 cores, right after an addition, an LSTM of T, B, I, H = 50, 64, 256, 256 took 25 ms
instead of 13 ms, and training steps from 1.2 to 1.6 times as long. To send them away takes some 45 us of a call, to
call them again 45 us of PyTorch's next operation; where none are there it takes 0.3 us.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["make_room"]

SOFT = 1  # omp_pause_soft: what the threads hold is kept
WORTHWHILE = 50_000_000  # operations a thread; about a millisecond


def make_room(operations: int, threads: int) -> None:
    """Have no thread of PyTorch's spin during a call of so many operations in products."""
    if _pause is not None and threads > 1 and operations >= WORTHWHILE * threads:
        _pause(SOFT)


def _find() -> Callable[[int], int] | None:
    """libgomp's omp_pause_resource_all, of the libgomp that PyTorch uses; None where it uses another library."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_global_deps.so"))
        if hasattr(library, "GOMP_parallel") and not hasattr(library, "__kmpc_fork_call"):
            return library.omp_pause_resource_all
    except (OSError, AttributeError):
        pass
    return None


def _forget() -> None:
    """In a forked child PyTorch's threads are gone, and libgomp would wait for them."""
    global _pause
    _pause = None


_pause = _find()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
