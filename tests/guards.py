"""Arrays that end, or begin, at a page that may not be accessed: a read or write beyond them kills the process.

For subprocesses, on Linux. The memory is never unmapped.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PLACES", "guarded", "guarded_results"]

PLACES = ("end", "start")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_NOBODY, _READ, _EVERYBODY, _PRIVATE, _ANONYMOUS = 0, 1, 3, 2, 32


def _room(nbytes: int, place: str, writeable: bool) -> tuple[int, Callable[[], None]]:
    """Return the address of `nbytes` of memory, and a function that makes it read-only unless `writeable`.

    The memory ends at a guard page or starts right after one, as `place` says.
    """
    page = mmap.PAGESIZE
    pages = -(-max(nbytes, 1) // page) * page
    start = _libc.mmap(None, pages + 2 * page, _EVERYBODY, _PRIVATE | _ANONYMOUS, -1, 0)
    assert start not in (None, ctypes.c_void_p(-1).value), ctypes.get_errno()
    for guard in (start, start + page + pages):
        assert _libc.mprotect(guard, page, _NOBODY) == 0

    def seal() -> None:
        if not writeable:
            assert _libc.mprotect(start + page, pages, _READ) == 0

    return start + page + (pages - nbytes if place == "end" else 0), seal


def _new(shape: Any, dtype: Any, place: str, writeable: bool = True) -> tuple[NDArray, Callable[[], None]]:
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    address, seal = _room(nbytes, place, writeable)
    memory = (ctypes.c_char * nbytes).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape), seal


def guarded(a: NDArray, place: str = "end", *, writeable: bool = False) -> NDArray:
    """Return a copy of `a` that ends or starts at a guard page; it is read-only unless `writeable`."""
    copy, seal = _new(a.shape, a.dtype, place, writeable)
    copy[...] = a
    seal()
    return copy


@contextmanager
def guarded_results(place: str = "end") -> Iterator[None]:
    """Within it, arrays that Python code makes with np.empty, np.zeros and the like are guarded.

    These are a layer's results, gradients, tapes and states.
    """

    def empty(shape: Any, dtype: Any = np.float64, order: str = "C") -> NDArray:
        return _new(shape, dtype, place)[0]

    def empty_like(a: NDArray, dtype: Any = None) -> NDArray:
        return empty(a.shape, dtype or a.dtype)

    def zeros_like(a: NDArray, dtype: Any = None) -> NDArray:
        return empty_like(a, dtype)  # new pages are all zeros

    ours = {"empty": empty, "zeros": empty, "empty_like": empty_like, "zeros_like": zeros_like}
    before = {name: getattr(np, name) for name in ours}
    for name, function in ours.items():
        setattr(np, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(np, name, function)
