"""What can do a task: the protocol, and the engines of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines
from fastrnn.bench.tasks import Task, counted
from fastrnn.bench.worker import median_seconds, wait_until_idle
from fastrnn.engines import blas
from fastrnn.engines.threads import num_threads
from fastrnn.layers import LAYERS

__all__ = ["REFERENCE", "Contender", "EngineContender", "EngineRunner", "Problem", "Results", "Runner"]

REFERENCE = "reference"

Results = dict[str, NDArray]


class Runner(Protocol):
    """A contender that has loaded a task."""

    def results(self) -> Results:
        """Run once and return "y", "h_n", an LSTM's "c_n", and of training "grad x", "grad h0", "grad <param>" ..."""

    def measure(self, seconds: float) -> float:
        """Run for about so many seconds and return the median time of a run in seconds."""


class Contender(Protocol):
    """Something that can do tasks."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def load(self, task: Task) -> Runner:
        """Make everything ready, inputs too: the same task brings the same numbers to every contender."""


@dataclass(frozen=True, slots=True)
class EngineContender:
    """An engine of this process.

    Attributes
    ----------
    engine : str
        One of `fastrnn.engines.available()`.
    threads : int or None
        Used instead of the task's.
    """

    engine: str
    threads: int | None = None

    @property
    def name(self) -> str:
        """The engine's, or what sets it apart: the number of threads."""
        return self.engine if self.threads is None else counted(self.threads, "thread")

    def load(self, task: Task) -> EngineRunner:
        """See `Contender.load`."""
        return EngineRunner(self.engine, self.threads or task.threads, task.kind, Problem.draw(task))


class EngineRunner:
    """An engine with a problem to solve."""

    def __init__(self, engine: str, threads: int, kind: str, problem: Problem) -> None:
        self._engine, self._threads = engine, threads
        with self._selected():
            self._run, self._collect = solve(kind, problem)

    def results(self) -> Results:
        """See `Runner.results`."""
        with self._selected():
            return self._collect()

    def measure(self, seconds: float) -> float:
        """See `Runner.measure`."""
        with self.ready() as call:
            return median_seconds(call, seconds)

    @contextmanager
    def ready(self) -> Iterator[Callable[[], Any]]:
        """Within it, engine and threads are selected and nothing else runs; gives what does the task once."""
        with self._selected():
            wait_until_idle()
            yield self._run

    @contextmanager
    def _selected(self) -> Iterator[None]:
        with engines.use(self._engine), num_threads(self._threads), blas.numpy_threads(self._threads):
            yield


@dataclass(frozen=True, slots=True)
class Problem:
    """A layer, what it is given, and the gradients of a loss in what it gives.

    Without a state the layer starts from zeros; without dstate the loss is one in y alone.
    """

    layer: Any
    x: NDArray
    state: tuple[NDArray, ...]
    dy: NDArray
    dstate: tuple[NDArray, ...]

    @classmethod
    def draw(cls, task: Task) -> Problem:
        """Normally distributed numbers, always the same ones."""
        rng = np.random.default_rng(0)
        T, B, I, H = task.sizes

        def normal(*shape: int) -> NDArray:
            return rng.standard_normal(shape).astype(task.dtype)

        def state() -> tuple[NDArray, ...]:
            return tuple(normal(*shape) for shape in layer.state_shapes(B))

        layer = LAYERS[task.cell](I, H, dtype=task.dtype, rng=rng)
        return cls(layer, normal(T, B, I), state(), normal(T, B, H), state())

    def at_rest(self) -> Problem:
        """The same from a state of zeros, for a loss in y alone."""
        return replace(self, state=(), dstate=())

    def in_float64(self) -> Problem:
        """The same numbers in float64."""

        def wide(arrays: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
            return tuple(a.astype(np.float64) for a in arrays)

        layer = type(self.layer)(self.layer.input_size, self.layer.hidden_size, dtype=np.float64)
        layer.load_state_dict({name: value.astype(np.float64) for name, value in self.layer.params.items()})
        x, dy = wide((self.x, self.dy))
        return Problem(layer, x, wide(self.state), dy, wide(self.dstate))


# Each returns what is timed, and what collects the results of one such run.
Solution = tuple[Callable[[], Any], Callable[[], Results]]


def solve(kind: str, problem: Problem) -> Solution:
    """Make a problem ready for what a `tasks.Task` of this kind is."""
    if kind == "training":
        return solve_training(problem)
    return solve_step(problem) if len(problem.x) == 1 else solve_inference(problem)


def solve_inference(problem: Problem) -> Solution:
    frozen, x, state = problem.layer.freeze(), problem.x, to_layer(problem.state)

    def call() -> Any:
        return frozen(x, state)

    def collect() -> Results:
        y, state_n = call()
        return {"y": y, **named(state_n, "h_n", "c_n")}

    return call, collect


def solve_step(problem: Problem) -> Solution:
    stream = problem.layer.freeze().stream(problem.x.shape[1])
    x, out = problem.x[0], np.empty_like(problem.dy[0])

    def call() -> Any:
        return stream.step(x, out)

    def collect() -> Results:
        stream.state = to_layer(problem.state)
        return {"y": call()[None].copy(), **named(stream.state, "h_n", "c_n")}

    return call, collect


def solve_training(problem: Problem) -> Solution:
    layer, x, dy = problem.layer, problem.x, problem.dy
    state, dstate = to_layer(problem.state), to_layer(problem.dstate)

    def call() -> Any:
        y, state_n, tape = layer.forward(x, state)
        return y, state_n, layer.backward(tape, dy, dstate)

    def collect() -> Results:
        y, state_n, grads = call()
        params = {f"grad {name}": value for name, value in grads.params.items()}
        states = named(state_n, "h_n", "c_n") | named(grads.state, "grad h0", "grad c0")
        return {"y": y, **states, "grad x": grads.x, **params}

    return call, collect


def to_layer(parts: tuple[NDArray, ...]) -> Any:
    """A state as layers take it: (h, c), h, or None for zeros."""
    return parts if len(parts) == 2 else parts[0] if parts else None


def named(state: Any, *names: str) -> Results:
    return dict(zip(names, state if isinstance(state, tuple) else (state,), strict=False))
