"""The blas engine: matrix products by SciPy's BLAS, gate kernels and threads of our own. See csrc/README.md."""

from __future__ import annotations

import ctypes

import numpy as np
import scipy.linalg.cython_blas as cython_blas
from numpy.typing import NDArray

from fastrnn._core import native
from fastrnn.cell import Cell, Record, Steps, Weights
from fastrnn.threads import get_num_threads

__all__ = ["BlasEngine"]


class BlasEngine:
    """Runs any cell on every CPU that SciPy runs on."""

    name = "blas"

    def prepare(self, cell: Cell, weights: Weights) -> native.BlasCell:
        return native.BlasCell(cell, weights)

    def forward(
        self, cell: Cell, weights: native.BlasCell, steps: Steps, x: NDArray, h0: NDArray, c0: NDArray | None,
        y: NDArray, h_n: NDArray, c_n: NDArray | None, record: Record | None,
    ) -> None:  # fmt: skip
        """See `fastrnn.engines.Engine.forward`."""
        gates, cells = (None, None) if record is None else record
        native.blas_forward(weights, steps, x, h0, c0, y, h_n, c_n, gates, cells, get_num_threads())

    def backward(
        self, cell: Cell, weights: native.BlasCell, steps: Steps, x: NDArray, h0: NDArray, c0: NDArray | None,
        y: NDArray, record: Record, dy: NDArray | None, dh_n: NDArray, dc_n: NDArray | None, dx: NDArray, dh0: NDArray,
        dc0: NDArray | None, dweights: Weights,
    ) -> None:  # fmt: skip
        """See `fastrnn.engines.Engine.backward`."""
        native.blas_backward(
            weights, steps, x, h0, c0, y, record.gates, record.cells, dy, dh_n, dc_n, dx, dh0, dc0, dweights,
            get_num_threads(),
        )  # fmt: skip

    def stepper(
        self, cells: tuple[Cell, ...], weights: list[native.BlasCell], h: NDArray, c: NDArray | None
    ) -> native.BlasStepper:
        """See `fastrnn.engines.Engine.stepper`."""
        between = [np.empty_like(h[0]) for _ in cells[:-1]]
        return native.BlasStepper(weights, between, h, c)


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

    The extension module finds the library's symbols through its own dependencies, so that no BLAS is linked here.
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
