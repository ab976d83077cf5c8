"""Matrix products: row-major ones over SciPy's BLAS, and our own with packed factors on every instruction set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tolerances import assert_close

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


# ---- Packed factors ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Product:
    """Sizes and options of one product, in few words; `numbers` draws its factors."""

    rows: int
    columns: int
    K: int
    dtype: Any = np.float32
    beta: bool = False
    descending: bool = False
    transposed: bool = False  # the weights are R^T
    layout: str = "rows"  # of A: "rows", "every third row", "packed"
    seed: int = 0

    def numbers(self, *shape: int) -> NDArray:
        return np.random.default_rng([self.seed, *shape]).standard_normal(shape).astype(self.dtype)


@st.composite
def products(draw: Any, most_rows: int = 40, least_K: int = 0) -> Product:
    return Product(
        rows=draw(st.integers(1, most_rows)),
        columns=draw(st.integers(1, 130)),
        K=draw(st.one_of(st.integers(least_K, 40), st.integers(least_K, 700))),
        dtype=draw(st.sampled_from((np.float32, np.float64))),
        beta=draw(st.booleans()),
        descending=draw(st.booleans()),
        transposed=draw(st.booleans()),
        layout=draw(st.sampled_from(("rows", "every third row", "packed"))),
        seed=draw(st.integers(0, 1000)),
    )


def room(rows: int, columns: int, dtype: Any) -> NDArray:
    """Of a packed matrix: NaN where nothing is written, with a row between the vectors as the engine has it."""
    lanes = native.lanes(np.dtype(dtype).itemsize)
    return np.full((-(-columns // lanes), rows + 1, lanes), np.nan, dtype)


def packed(r: NDArray, transposed: bool = False) -> NDArray:
    """A matrix (K, columns) packed, from itself or its transpose, whose rows lie further apart than they are long."""
    result = room(*r.shape, r.dtype)
    weights = r.T if transposed else r
    padded = np.full((weights.shape[0], weights.shape[1] + 3), np.nan, r.dtype)
    padded[:, :-3] = weights
    native.pack(padded[:, :-3], transposed, result)
    return result


def laid_out(a: NDArray, layout: str) -> NDArray:
    if layout == "packed":
        return packed(a)
    step = 3 if layout == "every third row" else 1
    wide = np.full((step * len(a), a.shape[1] + 5), np.nan, a.dtype)
    wide[::step, :-5] = a
    return wide[::step, :-5]


def multiplied(p: Product, a: NDArray, r: NDArray, c: NDArray) -> NDArray:
    """beta*c + a r by the kernel; what lies beside its result stays as it was."""
    around = np.full((c.shape[0], c.shape[1] + 7), np.nan, c.dtype)
    around[:, : c.shape[1]] = c if p.beta else np.nan  # at 0 nothing is read
    result = around[:, : c.shape[1]]
    native.multiply(laid_out(a, p.layout), packed(r, p.transposed), a.shape[1], p.beta, result, p.descending)
    assert np.isnan(around[:, c.shape[1] :]).all()
    return result


def gradient(a: NDArray, r: NDArray, c: NDArray) -> NDArray:
    """c + a^T r by the kernel."""
    around = np.full((c.shape[0], c.shape[1] + 7), np.nan, c.dtype)
    around[:, : c.shape[1]] = c
    native.add_gradient(packed(a), packed(r), len(a), around[:, : c.shape[1]])
    assert np.isnan(around[:, c.shape[1] :]).all()
    return around[:, : c.shape[1]]


def column_sums(r: NDArray, start: NDArray) -> NDArray:
    around = np.concatenate([start, np.full(7, np.nan, start.dtype)])
    native.add_columns(packed(r), len(r), around[:-7])
    assert np.isnan(around[-7:]).all()
    return around[:-7]


@given(p=products())
def test_packing(isa: str, p: Product) -> None:
    """Vector after vector, a row of lanes each; lanes beyond the last column are zeros, and nothing else is written."""
    r = p.numbers(p.K, p.columns)
    whole = packed(r, p.transposed)
    vectors, _, lanes = whole.shape
    expected = np.zeros((p.K, vectors * lanes), p.dtype)
    expected[:, : p.columns] = r
    np.testing.assert_array_equal(whole[:, : p.K], expected.reshape(p.K, vectors, lanes).swapaxes(0, 1))
    assert np.isnan(whole[:, p.K :]).all()

    by_rows = room(*r.shape, r.dtype)
    for k, row in enumerate(r):
        native.pack_row(row, by_rows, k)
    np.testing.assert_array_equal(by_rows, whole)


@given(p=products(least_K=1))  # every layer has an input and a state; without, C would stay as it is
@example(Product(1, 128, 700))
@example(Product(7, 97, 513, descending=True))  # several chunks of K, the last of one row
@example(Product(13, 130, 700, np.float64, beta=True))
def test_product(isa: str, p: Product) -> None:
    a, r, c = p.numbers(p.rows, p.K), p.numbers(p.K, p.columns), p.numbers(p.rows, p.columns)
    a /= np.sqrt(p.K, dtype=a.dtype)  # errors grow with the terms, which a sum near 0 does not show
    expected = (c if p.beta else 0) + a.astype(np.float64) @ r
    assert_close(multiplied(p, a, r, c), expected)


@given(p=products(least_K=1), data=st.data())
def test_product_has_the_same_bits_whatever_is_around(isa: str, p: Product, data: st.DataObject) -> None:
    """An element is the same sum in every tile, in whatever order and layout, and others' NaN do not reach it."""
    a, r, c = p.numbers(p.rows, p.K), p.numbers(p.K, p.columns), p.numbers(p.rows, p.columns)
    whole = multiplied(p, a, r, c)
    rows, columns = data.draw(parts(p.rows)), data.draw(parts(p.columns))
    drawn = data.draw(products())
    other = replace(p, descending=drawn.descending, transposed=drawn.transposed, layout=drawn.layout)
    np.testing.assert_array_equal(multiplied(other, a[rows], r[:, columns], c[rows, columns]), whole[rows, columns])

    struck = [np.full_like(part, np.nan) for part in (a, r, c)]
    struck[0][rows], struck[1][:, columns], struck[2][rows, columns] = a[rows], r[:, columns], c[rows, columns]
    np.testing.assert_array_equal(multiplied(p, *struck)[rows, columns], whole[rows, columns])


@given(p=products(most_rows=130))
@example(Product(83, 83, 512))
def test_gradient(isa: str, p: Product) -> None:
    a, r, c = p.numbers(p.K, p.rows), p.numbers(p.K, p.columns), p.numbers(p.rows, p.columns)
    assert_close(gradient(a, r, c), c + a.T.astype(np.float64) @ r)


@given(p=products(most_rows=130), data=st.data())
def test_gradient_has_the_same_bits_whatever_is_around(isa: str, p: Product, data: st.DataObject) -> None:
    a, r, c = p.numbers(p.K, p.rows), p.numbers(p.K, p.columns), p.numbers(p.rows, p.columns)
    whole = gradient(a, r, c)
    rows, columns = data.draw(parts(p.rows)), data.draw(parts(p.columns))
    some = gradient(a[:, rows], r[:, columns], c[rows, columns])
    np.testing.assert_array_equal(some, whole[rows, columns])


@given(p=products(), data=st.data())
def test_sums_of_columns(isa: str, p: Product, data: st.DataObject) -> None:
    r, start = p.numbers(p.K, p.columns), p.numbers(p.columns)
    whole, columns = column_sums(r, start), data.draw(parts(p.columns))
    assert_close(whole, start + r.sum(axis=0, dtype=np.float64))
    np.testing.assert_array_equal(column_sums(r[:, columns], start[columns]), whole[columns])


def parts(n: int) -> st.SearchStrategy[slice]:
    """Some neighbours among n."""
    return st.tuples(st.integers(0, n - 1), st.integers(1, n)).map(lambda p: slice(p[0], p[0] + p[1]))
