"""Fixtures that all tests share, and the settings of hypothesis."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import instruction_sets
import numpy as np
import pytest
from float_flags import control
from generators import VARIANTS, build_layer
from hypothesis import HealthCheck, settings

import fastrnn
from fastrnn._core import native

# The fixtures here only choose an engine or a cell, which stays the same for all examples of a test.
_fixtures_are_constant = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile("dev", deadline=None, max_examples=20, suppress_health_check=_fixtures_are_constant)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
settings.register_profile("thorough", settings.get_profile("dev"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(autouse=True)
def float_flags_are_as_before() -> Iterator[None]:
    """After each test, the thread's floating-point control flags are what they were before it."""
    before = control()
    yield
    assert control() == before


@pytest.fixture(params=fastrnn.engines.available())
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each engine in turn, by its name; calls from the test's thread use it."""
    with fastrnn.engines.use(request.param):
        yield request.param


@pytest.fixture(params=[name for name in fastrnn.engines.available() if name != "reference"])
def compiled(request: pytest.FixtureRequest) -> Iterator[str]:
    """As `engine`, but without the reference, which is plain NumPy and promises nothing about memory and threads."""
    with fastrnn.engines.use(request.param):
        yield request.param


@pytest.fixture(params=instruction_sets.DISTINCT)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set whose kernels are its own, by its name; kernels that a test calls directly use it."""
    before = native.isa_selected()
    assert native.isa_select(request.param)
    yield request.param
    native.isa_select(before)


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    """A name from `generators.VARIANTS`."""
    return request.param


@pytest.fixture
def build(variant: str) -> Callable:
    """Build a layer of the variant: ``build(input_size, hidden_size, **options)``."""

    def build_variant(input_size: int, hidden_size: int, **options: object) -> fastrnn.LSTM:
        return build_layer(variant, input_size, hidden_size, **options)

    return build_variant


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)


@pytest.fixture
def thread_count() -> Iterator[None]:
    """For tests that set the process's number of threads: restores it afterwards."""
    before = fastrnn.get_num_threads()
    yield
    fastrnn.set_num_threads(before)


@pytest.fixture
def small_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the small cases "tiny" and "step" to those of the benchmark."""
    from fastrnn.bench import CASES, Sizes

    monkeypatch.setitem(CASES, "tiny", Sizes(4, 3, 5, 67))
    monkeypatch.setitem(CASES, "step", Sizes(1, 2, 3, 5))


@pytest.fixture
def bench_command() -> Callable:
    """Run ``fastrnn bench`` with arguments, in this process."""
    testing = pytest.importorskip("click.testing")
    pytest.importorskip("rich")
    import fastrnn.cli

    runner = testing.CliRunner()

    def run(*arguments: object) -> Any:
        return runner.invoke(fastrnn.cli.group(), ["bench", *map(str, arguments)])

    return run
