"""Products with weights of fewer bits by themselves: int8 to the bit what its scheme says, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import instruction_sets
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastrnn._core import native
from fastrnn.engines.precision import MOST_SUMMED, BFloat16, Int8

EXTREMES = (-128, 127)


@pytest.fixture(params=instruction_sets.ALL, autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[None]:
    before = native.isa_selected()
    assert native.isa_select(request.param)
    yield
    native.isa_select(before)


def product(x: NDArray, weights: Any, start: NDArray | None = None, descending: bool = False) -> NDArray:
    """start + x @ weights.T by the kernel; what lies beside its result stays as it was."""
    columns = weights.shape[0]
    around = np.full((len(x), columns + 5), np.nan, np.float32)
    result = around[:, :columns]
    if start is not None:
        result[...] = start
    wide = np.full((len(x), x.shape[1] + 3), np.nan, np.float32)
    wide[:, :-3] = x
    values, scales = (weights.bits, None) if isinstance(weights, BFloat16) else (weights.values, weights.scales)
    native.multiply_narrow(wide[:, :-3], values, scales, start is not None, result, descending)
    assert np.isnan(around[:, columns:]).all()
    return result


def assert_same_bits(actual: NDArray, expected: NDArray) -> None:
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual[~nan].view(np.uint32), expected[~nan].view(np.uint32))


def rows_of(rng: np.random.Generator, rows: int, K: int) -> NDArray[np.float32]:
    """Rows of activations: usual, huge, tiny, of zeros, with all values the largest, and not finite."""
    x = rng.standard_normal((rows, K)).astype(np.float32)
    x *= rng.choice(np.float32([1, 1, 1, 1e30, 1e-29, 1e-31]), (rows, 1))
    for row in x:
        kind = rng.integers(12)
        if kind == 0:
            row[:] = 0
        elif kind == 1:
            row[:] = np.where(rng.random(K) < 0.5, -1, 1) * np.abs(row).max()
        elif kind < 5:
            row[rng.integers(K)] = (np.inf, -np.inf, np.nan)[kind - 2]
    return x


def int8(rng: np.random.Generator, N: int, K: int) -> Int8:
    values = rng.integers(-128, 128, (N, K)).astype(np.int8)
    return Int8(values, rng.standard_normal(N).astype(np.float32))


@given(rows=st.integers(1, 60), N=st.integers(1, 140), K=st.integers(1, 300), seed=st.integers(0, 1000))
@example(rows=1, N=128, K=64, seed=0)
@example(rows=9, N=33, K=129, seed=1)
def test_int8_gives_the_bits_of_its_scheme(rows: int, N: int, K: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weights, start = rows_of(rng, rows, K), int8(rng, N, K), rng.standard_normal((rows, N)).astype(np.float32)
    expected = weights.product(x)
    assert_same_bits(product(x, weights), expected)
    assert_same_bits(product(x, weights, start, descending=True), start + expected)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("weight", EXTREMES)
@pytest.mark.parametrize("K", [2, 64, MOST_SUMMED])
def test_no_sum_of_int8_saturates(K: int, weight: int, sign: int) -> None:
    weights = Int8(np.full((3, K), weight, np.int8), np.float32([1, 1, 1]))
    x = np.full((5, K), sign, np.float32)
    expected = np.float32(sign * 127 * weight * K) * np.float32(1 / np.float32(127))
    np.testing.assert_array_equal(product(x, weights), np.full((5, 3), expected))


@given(seed=st.integers(0, 1000))
def test_no_pair_of_int8_saturates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = Int8(rng.choice(np.int8([-128, -127, -1, 0, 1, 127]), (20, 70)), np.ones(20, np.float32))
    x = rng.choice(np.float32([-1, -1, 0, 1, 1]), (7, 70))
    x[:, 0] = 1
    assert_same_bits(product(x, weights), weights.product(x))


@given(rows=st.integers(1, 60), N=st.integers(1, 140), K=st.integers(1, 300), seed=st.integers(0, 1000))
def test_bfloat16(rows: int, N: int, K: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = BFloat16.of(rng.standard_normal((N, K)).astype(np.float32))
    x = BFloat16.of(rng.standard_normal((rows, K)).astype(np.float32)).widened()  # exact in either form
    start = rng.standard_normal((rows, N)).astype(np.float32)
    expected = x.astype(np.float64) @ weights.widened().T
    size = np.abs(x).astype(np.float64) @ np.abs(weights.widened()).T  # errors are relative to this
    eps = np.finfo(np.float32).eps
    assert (np.abs(product(x, weights) - expected) <= (K + 1) * eps * size).all()
    assert (np.abs(product(x, weights, start) - start - expected) <= (K + 2) * eps * (size + np.abs(start))).all()


@given(rows=st.integers(2, 60), K=st.integers(1, 200), seed=st.integers(0, 1000), data=st.data())
@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_bits_of_a_row_depend_on_nothing_around(kind: str, rows: int, K: int, seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    N = 70
    weights = int8(rng, N, K) if kind == "int8" else BFloat16.of(rng.standard_normal((N, K)).astype(np.float32))
    x = rng.standard_normal((rows, K)).astype(np.float32)
    whole = product(x, weights)
    first, columns = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, N - 1))
    some = slice(first, data.draw(st.integers(first + 1, rows)))
    assert_same_bits(product(x[some], weights[columns:]), whole[some, columns:])
    others = np.full_like(x, np.nan)
    others[some] = x[some]
    assert_same_bits(product(others, weights, descending=True)[some], whole[some])
