"""What surrounds recurrent layers, compiled: against its NumPy form in float64, and the promise of same bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import instruction_sets
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tolerances import assert_close

import fastrnn
from fastrnn._core import native
from fastrnn.engines.compiled_operations import CompiledOperations
from fastrnn.engines.reference_operations import ReferenceOperations

COMPILED, REFERENCE = CompiledOperations(), ReferenceOperations()
DTYPES = (np.float32, np.float64)


@pytest.fixture(params=instruction_sets.DISTINCT, autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    before = native.isa_selected()
    assert native.isa_select(request.param)
    yield
    assert native.isa_select(before)


class Problem:
    """A linear layer of N rows, I inputs and O outputs, a gradient, targets and their shares, a few of them 0."""

    def __init__(self, N: int, I: int, O: int, bias: bool, dtype: Any) -> None:
        rng = np.random.default_rng([N, I, O])
        self.x = rng.standard_normal((N, I)).astype(dtype)
        self.weight = (rng.standard_normal((O, I)) / np.sqrt(I)).astype(dtype)
        self.bias = rng.standard_normal(O).astype(dtype) if bias else None
        self.dy = rng.standard_normal((N, O)).astype(dtype)
        self.targets = rng.integers(0, O, N)
        self.shares = rng.random(N) * (rng.random(N) > 0.2)

    def wide(self) -> Problem:
        other = object.__new__(Problem)
        for name, value in vars(self).items():
            wider = value is not None and value.dtype.kind == "f"
            setattr(other, name, value.astype(np.float64) if wider else value)
        return other

    def results(self, operations: Any, threads: int = 1) -> list[NDArray | None]:
        layer = self.x, self.weight, self.bias
        with fastrnn.num_threads(threads):
            y, grads = operations.linear(*layer), operations.linear_backward(*layer, self.dy)
            losses, found = operations.cross_entropy(*layer, self.targets, self.shares, True)
            alone, none = operations.cross_entropy(*layer, self.targets, self.shares, False)
            assert none is None
            packed = operations.packed_linear(self.weight, self.bias)
            return [y, *grads, losses, *found, alone, packed(self.x)]


def compare(found: list[NDArray | None], expected: list[NDArray | None], dtype: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        if a is None or b is None:
            assert a is b is None
        else:
            assert_close(a.astype(dtype), b, "gradient")  # losses are float64, computed in dtype


# One block of classes is 96, a task 256 rows or 64 columns, a piece of the weights 512 rows.
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 120), st.booleans(), st.sampled_from(DTYPES))
@example(1, 1, 1, True, np.float32)
@example(300, 70, 97, True, np.float32)
@example(20, 600, 193, False, np.float32)
@example(33, 5, 1100, True, np.float64)
def test_compiled_operations_are_those_of_the_reference(N: int, I: int, O: int, bias: bool, dtype: Any) -> None:
    problem = Problem(N, I, O, bias, dtype)
    compare(problem.results(COMPILED), problem.wide().results(REFERENCE), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 3, 5), (61, 70, 33), (300, 64, 200), (40, 520, 17)])
def test_same_bits_for_any_number_of_threads(size: tuple[int, int, int], dtype: Any) -> None:
    problem = Problem(*size, True, dtype)
    alone = problem.results(COMPILED)
    native.insist_on_teams("rows")
    try:
        for threads in (2, 3, 7):
            for a, b in zip(problem.results(COMPILED, threads), alone, strict=True):
                np.testing.assert_array_equal(a, b)
    finally:
        native.insist_on_teams(None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_a_linear_layer_depends_on_that_row_alone(dtype: Any) -> None:
    problem = Problem(40, 130, 70, True, dtype)
    y = COMPILED.linear(problem.x, problem.weight, problem.bias)
    packed = COMPILED.packed_linear(problem.weight, problem.bias)
    np.testing.assert_array_equal(packed(problem.x), y)
    for n in (0, 17, 39):
        row = problem.x[n : n + 1].copy()
        np.testing.assert_array_equal(COMPILED.linear(row, problem.weight, problem.bias)[0], y[n])
        np.testing.assert_array_equal(packed(row)[0], y[n])


def test_logits_are_held_for_some_rows_at_a_time() -> None:
    """As many as fit into 16 MiB, but at least 128: here two parts of the rows, of 128 and 12."""
    problem = Problem(140, 1, 100_000, True, np.float32)
    layer = problem.x, problem.weight, problem.bias
    losses, grads = COMPILED.cross_entropy(*layer, problem.targets, problem.shares, True)
    expected, expected_grads = REFERENCE.cross_entropy(*layer, problem.targets, problem.shares, True)
    compare([losses, *grads], [expected, *expected_grads], np.float32)


def test_rows_without_a_share_count_for_nothing_even_if_they_are_not_finite() -> None:
    problem = Problem(20, 6, 9, True, np.float64)
    expected = problem.results(COMPILED)
    silent = int(np.flatnonzero(problem.shares == 0)[0])
    problem.x[silent] = np.inf
    losses, grads = COMPILED.cross_entropy(
        problem.x, problem.weight, problem.bias, problem.targets, problem.shares, True
    )
    np.testing.assert_array_equal(np.delete(losses, silent), np.delete(expected[4], silent))
    np.testing.assert_array_equal(grads.x, expected[5])
    np.testing.assert_array_equal(grads.bias, expected[7])


def test_logits_far_apart_and_not_finite() -> None:
    """The weights are the logits: x is one 1."""
    logits = np.full((200, 1), -1000.0, np.float32)
    logits[[7, 150], 0] = 500, 499
    x, targets, shares = np.ones((1, 1), np.float32), np.array([150]), np.ones(1)
    losses, grads = COMPILED.cross_entropy(x, logits, None, targets, shares, True)
    expected = np.zeros((200, 1))
    expected[[7, 150], 0] = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)) - 1
    np.testing.assert_allclose(losses, np.log(1 + np.exp(1)), rtol=1e-6)
    np.testing.assert_allclose(grads.weight, expected, atol=1e-6)
    for bad in (np.nan, np.inf):
        logits[3] = bad
        losses, grads = COMPILED.cross_entropy(x, logits, None, targets, shares, True)
        assert np.isnan(losses).all()
        assert np.isnan(grads.x).all()
    logits[:] = 0
    logits[:96] = -np.inf  # a whole block of classes that is ruled out
    losses, grads = COMPILED.cross_entropy(x, logits, None, targets, shares, True)
    np.testing.assert_allclose(losses, np.log(104), rtol=1e-6)
    assert not grads.weight[:96].any()


def test_no_rows() -> None:
    problem = Problem(0, 3, 5, True, np.float32)
    y, _, dweight, dbias, losses, _, fused_dweight, fused_dbias, *_ = problem.results(COMPILED)
    assert y.shape == (0, 5)
    assert losses.shape == (0,)
    for a in (dweight, dbias, fused_dweight, fused_dbias):
        assert not a.any()
