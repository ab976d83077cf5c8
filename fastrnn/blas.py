"""SciPy's BLAS, found and handed to the C code, so that no BLAS is linked here and none is in the wheel."""

from __future__ import annotations

import ctypes

import scipy.linalg.cython_blas as cython_blas

from fastrnn._core import native

__all__ = ["integer_bytes", "threads_controlled"]

# How the BLAS libraries that SciPy is built with name the functions that set and get their number of threads.
_CONTROLS = (
    ("scipy_openblas_set_num_threads", "scipy_openblas_get_num_threads"),
    ("scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"),
    ("openblas_set_num_threads", "openblas_get_num_threads"),
    ("openblas_set_num_threads64_", "openblas_get_num_threads64_"),
    ("MKL_Set_Num_Threads", "MKL_Get_Max_Threads"),
    ("bli_thread_set_num_threads", "bli_thread_get_num_threads"),
)


def _install() -> tuple[int, bool]:
    """Hand SciPy's BLAS to the C code; return the bytes of its integers, and whether its threads can be controlled.

    SciPy's extension module finds the library's symbols through its own dependencies.
    """
    library = ctypes.CDLL(cython_blas.__file__)
    set_threads = get_threads = 0
    for setter, getter in _CONTROLS:
        if hasattr(library, setter) and hasattr(library, getter):
            set_threads = ctypes.cast(getattr(library, setter), ctypes.c_void_p).value or 0
            get_threads = ctypes.cast(getattr(library, getter), ctypes.c_void_p).value or 0
            break
    return native.install_blas(cython_blas.__pyx_capi__, set_threads, get_threads), bool(set_threads)


integer_bytes, threads_controlled = _install()
