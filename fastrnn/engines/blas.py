"""The BLAS libraries of SciPy, handed to the C code, and of NumPy: found through their users, and told their threads.

So no BLAS is linked here, and none is in the wheel. An extension module's own dependencies give its library's symbols.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import scipy.linalg.cython_blas as cython_blas

from fastrnn._core import native

__all__ = ["integer_bytes", "name", "numpy_control", "numpy_threads", "scipy_threads", "threads_controlled"]

# How BLAS libraries name the functions that set and get their number of threads.
_CONTROLS = (
    ("scipy_openblas_set_num_threads", "scipy_openblas_get_num_threads"),
    ("scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"),
    ("openblas_set_num_threads", "openblas_get_num_threads"),
    ("openblas_set_num_threads64_", "openblas_get_num_threads64_"),
    ("MKL_Set_Num_Threads", "MKL_Get_Max_Threads"),
    ("bli_thread_set_num_threads", "bli_thread_get_num_threads"),
)


def name() -> str:
    """What SciPy's BLAS says of itself, where it is an OpenBLAS."""
    library = ctypes.CDLL(cython_blas.__file__)
    for function in ("scipy_openblas_get_config", "scipy_openblas_get_config64_", "openblas_get_config"):
        if hasattr(library, function):
            getter = getattr(library, function)
            getter.restype = ctypes.c_char_p
            return " ".join(getter().decode().split())
    return "SciPy's BLAS"


@contextmanager
def numpy_threads(n: int) -> Iterator[None]:
    """Give NumPy's BLAS so many threads inside a ``with`` block, where it lets itself be told.

    Those of an OpenBLAS spin for 0.1 s after each product, which takes cores from calls between products.
    """
    with _threads(numpy_control(), n):
        yield


@contextmanager
def scipy_threads(n: int) -> Iterator[None]:
    """As `numpy_threads` for SciPy's BLAS, which the C code uses. For products outside of our own calls."""
    with _threads(_control(cython_blas.__file__), n):
        yield


@contextmanager
def _threads(control: tuple[Any, Any] | None, n: int) -> Iterator[None]:
    if control is None:
        yield
        return
    set_threads, get_threads = control
    before = get_threads()
    set_threads(n)
    try:
        yield
    finally:
        set_threads(before)


@functools.cache
def numpy_control() -> tuple[Callable[[int], None], Callable[[], int]] | None:
    """What sets and what gets the number of threads of NumPy's BLAS, or None."""
    return _control(importlib.import_module("numpy.linalg._umath_linalg").__file__)


def _control(user: str | None) -> tuple[Any, Any] | None:
    """What sets and what gets the number of threads of the BLAS that an extension module uses, or None."""
    library = ctypes.CDLL(user)
    for setter, getter in _CONTROLS:
        if hasattr(library, setter) and hasattr(library, getter):
            return getattr(library, setter), getattr(library, getter)
    return None


def _install() -> tuple[int, bool]:
    """Hand SciPy's BLAS to the C code; return the bytes of its integers, and whether its threads can be controlled."""
    control = _control(cython_blas.__file__)
    set_threads, get_threads = (ctypes.cast(f, ctypes.c_void_p).value or 0 for f in control) if control else (0, 0)
    return native.install_blas(cython_blas.__pyx_capi__, set_threads, get_threads), control is not None


integer_bytes, threads_controlled = _install()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=native.blas_after_fork)
