"""Steps of searches, compiled: against their NumPy forms, with bans, ties, NaN and infinities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from running import output_of

import fastrnn
from fastrnn._core import native
from fastrnn.engines.compiled_operations import CompiledOperations
from fastrnn.engines.reference_operations import ReferenceOperations

pytestmark = pytest.mark.usefixtures("isa")
COMPILED, REFERENCE = CompiledOperations(), ReferenceOperations()
DTYPES = (np.float32, np.float64)
NONE = np.zeros(0, np.int64)
STOP = 2


def random_logits(rng: np.random.Generator, rows: int, V: int, dtype: Any, special: bool) -> NDArray:
    """With `special`, many are equal, some are -inf, and some rows have NaN or infinity."""
    logits = rng.standard_normal((rows, V)) * 3
    if special:
        logits = np.round(logits)
        logits[rng.random((rows, V)) < 0.1] = -np.inf
        for bad in (np.nan, np.inf):
            logits[(rng.random((rows, V)) < 0.2) & (rng.random((rows, 1)) < 0.2)] = bad
    return logits.astype(dtype)


def random_bans(rng: np.random.Generator, V: int) -> NDArray[np.int64]:
    return np.flatnonzero(rng.random(V) < rng.choice([0, 0.1, 0.5, 1]))


PROBLEMS = (st.integers(0, 5), st.integers(1, 300), st.sampled_from(DTYPES), st.booleans(), st.integers(0, 999))


@given(*PROBLEMS)
def test_greedy_takes_the_first_of_the_largest(rows: int, V: int, dtype: Any, special: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, banned = random_logits(rng, rows, V, dtype, special), random_bans(rng, V)
    found = COMPILED.greedy(logits, banned)
    np.testing.assert_array_equal(found, REFERENCE.greedy(logits, banned))
    np.testing.assert_array_equal(COMPILED.greedy(logits, NONE), logits.argmax(axis=1))


@given(*PROBLEMS, st.sampled_from([1e-310, 1e-3, 0.7, 1.0, 30.0, 1e300]))
@example(3, 5000, np.float32, False, 0, 1.0)
@example(2, 280, np.float32, False, 116, 1e-3)  # a subnormal chance comes first
def test_draws_are_those_of_the_reference(
    rows: int, V: int, dtype: Any, special: bool, seed: int, temperature: float
) -> None:
    rng = np.random.default_rng(seed)
    logits, banned = random_logits(rng, rows, V, dtype, special), random_bans(rng, V)
    least = 0 if temperature > 0.5 else 1e-30  # a subnormal chance counts as zero in C, and 0 would draw it in NumPy
    uniforms = rng.random(rows) * rng.choice([least, 1], rows)
    found = COMPILED.draw(logits, temperature, uniforms, banned)
    if temperature > 1e-300:  # smaller ones count as zero in C: the likeliest, in NumPy, too
        np.testing.assert_array_equal(found, REFERENCE.draw(logits, temperature, uniforms, banned))
    assert ((found >= 0) & (found < V)).all()
    bad = np.isnan(logits).any(axis=1) | np.isposinf(logits).any(axis=1) | (len(banned) == V)
    assert not np.isin(found[~bad], banned).any() or np.isneginf(np.delete(logits, banned, axis=1)).all(axis=1).any()


def test_draws_at_the_ends_of_the_unit_interval() -> None:
    logits = np.zeros((2, 1000))
    logits[:, [0, 1, 998, 999]] = -np.inf
    last = np.nextafter(1, 0)
    for operations in (COMPILED, REFERENCE):
        np.testing.assert_array_equal(operations.draw(logits, 1.0, np.array([0, last]), NONE), [2, 997])


class Beams:
    """A step of a beam search of `groups` groups of W sequences, some of which are done."""

    def __init__(self, groups: int, W: int, V: int, dtype: Any, special: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.logits = random_logits(rng, groups * W, V, dtype, special)
        self.scores = -rng.random((groups, W)) * 9
        if special:
            self.scores = np.round(self.scores)
            self.scores[rng.random((groups, W)) < 0.2] = -np.inf
        self.done = rng.random((groups, W)) < 0.3
        self.banned = random_bans(rng, V)
        self.stop = min(STOP, V - 1)

    def results(self, operations: Any, threads: int = 1) -> tuple[NDArray, NDArray, NDArray]:
        with fastrnn.num_threads(threads):
            return operations.beam(self.logits, self.scores, self.done, self.banned, self.stop)


@given(st.integers(0, 4), st.integers(1, 12), *PROBLEMS[1:])
@example(2, 5, 5000, np.float32, False, 0)
@example(2, 40, 3, np.float64, True, 1)
def test_beams_are_those_of_the_reference(groups: int, W: int, V: int, dtype: Any, special: bool, seed: int) -> None:
    beams = Beams(groups, W, V, dtype, special, seed)
    (parents, ids, best), (parents_r, ids_r, best_r) = beams.results(COMPILED), beams.results(REFERENCE)
    np.testing.assert_allclose(best, best_r, rtol=1e-12)
    assert ((parents >= 0) & (parents < W) & (ids >= 0) & (ids < V)).all()
    if not special:  # equal sums may be rounded differently
        possible = np.isfinite(best_r)
        np.testing.assert_array_equal(parents[possible], parents_r[possible])
        np.testing.assert_array_equal(ids[possible], ids_r[possible])


def test_of_equal_beams_the_first_stands_first() -> None:
    for operations in (COMPILED, REFERENCE):
        none = np.zeros((1, 3), bool)
        parents, ids, _ = operations.beam(np.zeros((3, 200)), np.zeros((1, 3)), none, np.array([0]), STOP)
        np.testing.assert_array_equal(parents, [[0, 0, 0]])
        np.testing.assert_array_equal(ids, [[1, 2, 3]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_results_for_any_number_of_threads(dtype: Any) -> None:
    beams = Beams(7, 3, 130, dtype, False, 0)
    uniforms = np.random.default_rng(1).random(21)
    ways = (
        beams.results,
        lambda operations, threads: [operations.greedy(beams.logits, beams.banned)],
        lambda operations, threads: [operations.draw(beams.logits, 1.0, uniforms, beams.banned)],
    )
    for way in ways:
        alone = way(COMPILED, 1)
        native.insist_on_teams("rows")
        try:
            for threads in (2, 3, 7):
                with fastrnn.num_threads(threads):
                    for a, b in zip(way(COMPILED, threads), alone, strict=True):
                        np.testing.assert_array_equal(a, b)
        finally:
            native.insist_on_teams(None)


GUARDED = """
    import itertools
    import numpy as np
    from guards import PLACES, guarded, guarded_results
    from fastrnn._core import native
    from fastrnn.engines.compiled_operations import CompiledOperations

    rng = np.random.default_rng(0)
    native.isa_select({isa!r})
    operations = CompiledOperations()
    for V, place, dtype in itertools.product((1, 2, 3, 7, 17, 64, 65, 255, 257, 300), PLACES, (np.float32, np.float64)):
        logits = guarded(rng.random((6, V)).astype(dtype), place)
        banned = guarded(np.array([V - 1]), place)
        scores, uniforms = guarded(rng.random((2, 3)), place), guarded(rng.random(6), place)
        done = guarded(np.zeros((2, 3), bool), place)
        with guarded_results(place):
            operations.greedy(logits, banned)
            operations.draw(logits, 1.0, uniforms, banned)
            operations.beam(logits, scores, done, banned, 0)
    print("fine")
"""


def test_nothing_beyond_an_array_is_touched(isa: str) -> None:
    assert output_of(GUARDED.format(isa=isa), PYTHONFAULTHANDLER="1") == "fine\n"
