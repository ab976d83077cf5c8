"""Attention, compiled: against its NumPy form in float64, the promise of same bits, and memories without steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from running import output_of
from tolerances import assert_close

import fastrnn
from fastrnn._core import native
from fastrnn.engines.compiled_operations import CompiledOperations
from fastrnn.engines.reference_operations import ReferenceOperations

pytestmark = pytest.mark.usefixtures("isa")
COMPILED, REFERENCE = CompiledOperations(), ReferenceOperations()
DTYPES = (np.float32, np.float64)


class Problem:
    """Queries (U, B, Q), keys (S, B, Q) and values (S, B, M) of a memory, its lengths, and a gradient (U, B, M + Q)."""

    def __init__(self, U: int, S: int, B: int, Q: int, M: int, masked: bool, dtype: Any) -> None:
        rng = np.random.default_rng([U, S, B, Q, M])
        sizes = {"queries": (U, B, Q), "keys": (S, B, Q), "values": (S, B, M), "d": (U, B, M + Q)}
        self.arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in sizes.items()}
        self.arrays["keys"] /= np.sqrt(Q).astype(dtype)
        self.lengths = rng.integers(0, S + 1, B) if masked else None

    def results(self, operations: Any, dtype: Any, threads: int = 1, batch_first: bool = False) -> list[NDArray]:
        arrays = [a.astype(dtype) for a in self.arrays.values()]
        if batch_first:
            arrays = [np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1) for a in arrays]
        *inputs, d = arrays
        with fastrnn.num_threads(threads):
            joined, weights = operations.attend(*inputs, self.lengths)
            return [joined, weights, *operations.attend_backward(*inputs, self.lengths, weights, d)]


SIZES = (st.integers(0, 9), st.integers(0, 40), st.integers(0, 5), st.integers(1, 40), st.integers(1, 70))


@given(*SIZES, st.booleans(), st.sampled_from(DTYPES), st.booleans())
@example(5, 33, 3, 1, 300, True, np.float32, False)
@example(1, 20, 4, 256, 512, True, np.float32, True)
def test_compiled_attention_is_that_of_the_reference(
    U: int, S: int, B: int, Q: int, M: int, masked: bool, dtype: Any, batch_first: bool
) -> None:
    problem = Problem(U, S, B, Q, M, masked, dtype)
    found, expected = problem.results(COMPILED, dtype, 1, batch_first), problem.results(REFERENCE, np.float64)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, "gradient")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 20, 7, 24, 33), (6, 17, 5, 40, 9)])
def test_same_bits_for_any_number_of_threads_and_order_of_axes(size: tuple[int, ...], dtype: Any) -> None:
    problem = Problem(*size, True, dtype)
    alone = problem.results(COMPILED, dtype)
    native.insist_on_teams("rows")
    try:
        for threads in (1, 2, 3, 7):
            for batch_first in (False, True):
                for a, b in zip(problem.results(COMPILED, dtype, threads, batch_first), alone, strict=True):
                    np.testing.assert_array_equal(a, b)
    finally:
        native.insist_on_teams(None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_query_reads_depends_on_that_query_and_its_memory_alone(dtype: Any) -> None:
    problem = Problem(7, 19, 3, 21, 37, True, dtype)
    queries, keys, values, _ = problem.arrays.values()
    joined, weights = COMPILED.attend(queries, keys, values, problem.lengths)
    for u in range(7):
        one, one_weights = COMPILED.attend(queries[u : u + 1], keys, values, problem.lengths)
        np.testing.assert_array_equal(one[0], joined[u])
        np.testing.assert_array_equal(one_weights[:, 0], weights[:, u])
    for b, length in enumerate(problem.lengths):
        row = [a[:, b : b + 1] for a in (queries, keys[:length], values[:length])]
        np.testing.assert_array_equal(COMPILED.attend(*row, None)[0][:, 0], joined[:, b])


@pytest.mark.parametrize("operations", [COMPILED, REFERENCE])
def test_what_lies_after_the_end_is_not_read_and_a_memory_without_steps_gives_zeros(operations: Any) -> None:
    problem = Problem(3, 9, 4, 5, 6, False, np.float64)
    problem.lengths = np.array([9, 4, 0, 1])
    past = np.arange(9)[:, None] >= problem.lengths
    for name in ("keys", "values"):
        problem.arrays[name][past] = 0
    expected = problem.results(operations, np.float64)
    joined, weights, _, dkeys, dvalues = expected
    assert not joined[:, 2, :6].any()
    assert not weights.swapaxes(1, 2)[past.T].any()
    assert not dkeys[past].any()
    assert not dvalues[past].any()
    np.testing.assert_allclose(weights.sum(axis=-1), np.broadcast_to([[1], [1], [0], [1]], (4, 3)))
    if operations is COMPILED:
        for name in ("keys", "values"):
            problem.arrays[name][past] = np.nan
        for a, b in zip(problem.results(operations, np.float64), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_scores_far_apart_and_not_finite() -> None:
    keys = np.array([-1e30, 1e30, 1e30, 0], np.float32).reshape(4, 1, 1)
    values = np.arange(4, dtype=np.float32).reshape(4, 1, 1)
    one = np.ones((1, 1, 1), np.float32)
    joined, weights = COMPILED.attend(one, keys, values, None)
    np.testing.assert_allclose(weights[0, 0], [0, 0.5, 0.5, 0], atol=1e-30)
    np.testing.assert_allclose(joined[0, 0], [1.5, 1])
    for bad in (np.nan, np.inf):
        keys[3] = bad
        assert np.isnan(COMPILED.attend(one, keys, values, None)[1]).all()


GUARDED = """
    import itertools
    import numpy as np
    from guards import PLACES, guarded, guarded_results
    from fastrnn._core import native
    from fastrnn.engines.compiled_operations import CompiledOperations

    rng = np.random.default_rng(0)
    native.isa_select({isa!r})
    sizes = itertools.product((1, 2, 5), (1, 7, 18), (1, 9, 17, 33), (3, 40, 130))
    for (U, S, Q, M), place, dtype in itertools.product(sizes, PLACES, (np.float32, np.float64)):
        shapes = (U, 2, Q), (S, 2, Q), (S, 2, M), (2, U, S), (U, 2, M + Q)
        *arrays, weights, d = (guarded(rng.random(shape).astype(dtype), place) for shape in shapes)
        with guarded_results(place):
            CompiledOperations().attend(*arrays, None)
            CompiledOperations().attend_backward(*arrays, None, weights, d)
    print("fine")
"""


def test_nothing_beyond_an_array_is_touched(isa: str) -> None:
    assert output_of(GUARDED.format(isa=isa), PYTHONFAULTHANDLER="1") == "fine\n"
