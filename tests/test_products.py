"""The row-major GEMM over SciPy's BLAS: every transpose, both dtypes, every awkward size."""

import numpy as np
import pytest

import fastrnn
from fastrnn._core import native

SIZES = [
    (1, 1, 1),
    (1, 7, 5),
    (5, 1, 7),
    (7, 5, 1),
    (2, 3, 4),
    (17, 33, 9),
    (64, 64, 64),
    (0, 3, 2),
    (3, 0, 2),
    (3, 2, 0),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
@pytest.mark.parametrize("beta", [0, 1])
@pytest.mark.parametrize("size", SIZES)
def test_gemm(dtype: type, ta: bool, tb: bool, beta: int, size: tuple[int, int, int]) -> None:
    M, N, K = size
    rng = np.random.default_rng(0)

    def padded(rows: int, columns: int) -> np.ndarray:
        """Rows that lie further apart than they are long."""
        return rng.standard_normal((rows, columns + 3)).astype(dtype)[:, :columns]

    a, b = padded(*((K, M) if ta else (M, K))), padded(*((N, K) if tb else (K, N)))
    c = padded(M, N)
    around = c.base.copy()
    if not beta:
        c[...] = np.nan  # at 0 nothing is read from C
    expected = beta * (c if beta else np.zeros_like(c)) + (a.T if ta else a) @ (b.T if tb else b)
    native.gemm(ta, tb, a, b, beta, c)
    np.testing.assert_allclose(c, expected, rtol=0, atol=1e2 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(c.base[:, N:], around[:, N:])


@pytest.mark.parametrize("threads", [1, 2])
def test_blas_keeps_its_own_threads_after_a_call(threads: int) -> None:
    """They are held to one during a call only."""
    import ctypes

    import scipy.linalg.cython_blas as cython_blas

    library = ctypes.CDLL(cython_blas.__file__)
    if not hasattr(library, "scipy_openblas_get_num_threads"):
        pytest.skip("SciPy's BLAS here is not its own OpenBLAS")
    library.scipy_openblas_set_num_threads(threads)
    fastrnn.LSTM(64, 64)(np.zeros((50, 32, 64), np.float32))
    assert library.scipy_openblas_get_num_threads() == threads
