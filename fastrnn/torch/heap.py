"""glibc's heap: memory that PyTorch frees stays for its next training step.

Each step frees and asks for many megabytes: logits, gradients. glibc gives the end of its heap back to the system once
enough of it is free, and the next step pays a page fault for every 4 KiB. Whether it does depends on what else lies in
the heap. PyTorch's own recurrent layers keep their work there; ours do not, so more of it is free after a step, and a
word-level model paid 17,000 faults a step, 15 ms of 115. So glibc is told once to keep as much as we do.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

from fastrnn.engines.memory import kept_mib

__all__ = ["keep_freed_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt
LARGEST_IN_HEAP = 32 << 20  # where glibc's own adjustment ends


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep up to `kept_mib()` of freed memory; whether it was told.

    It is not where the environment sets one of these two thresholds, or where FASTRNN_KEEP_MIB is 0.
    """
    if kept_mib() == 0 or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return False
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    limit = min(kept_mib() << 20, 2**31 - 1)
    return bool(library.mallopt(MMAP_THRESHOLD, LARGEST_IN_HEAP) and library.mallopt(TRIM_THRESHOLD, limit))
