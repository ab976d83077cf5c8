"""Arrays out of memory that earlier calls have used, and how much of it is kept for the next ones.

New memory costs a page fault every 4 KiB, in training more than some of the work on it: see docs/memory.md.
"""

from __future__ import annotations

import os

from fastrnn._core import native
from fastrnn._core.native import empty, view, zeros
from fastrnn.engines.cell import Cell
from fastrnn.engines.seam import Record

__all__ = ["DEFAULT_MIB", "empty", "kept_mib", "new_record", "view", "zeros"]

DEFAULT_MIB = 256


def kept_mib() -> int:
    """The most that is kept: what FASTRNN_KEEP_MIB says, or the default."""
    text = os.environ.get("FASTRNN_KEEP_MIB", "").strip() or str(DEFAULT_MIB)
    if not text.isdecimal() or len(text) > 9:
        raise ValueError(f"FASTRNN_KEEP_MIB: expected a number of MiB to keep for the next calls, got {text!r}")
    return int(text)


def new_record(cell: Cell, T: int, B: int) -> Record:
    """Room for a tape of T steps of B rows."""
    K, H = len(cell.recorded), cell.hidden_size
    gates = empty((T, B, K, H), cell.dtype) if K else None
    norms = empty((T, B, cell.norm_values), cell.dtype) if cell.norm_values else None
    fresh = empty((T, B, H), cell.dtype) if cell.records_fresh else None
    return Record(gates, empty((T, B, cell.has_c * H), cell.dtype) if cell.has_c else None, norms, fresh)


native.keep_at_most(kept_mib() << 20)
