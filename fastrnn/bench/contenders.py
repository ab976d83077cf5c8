"""Contenders, which do tasks: the protocols, and the engines of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastrnn import engines
from fastrnn.bench.problems import Problem, Results, solve
from fastrnn.bench.tasks import Task, counted
from fastrnn.bench.worker import median_seconds, wait_until_idle
from fastrnn.engines import blas
from fastrnn.engines.threads import num_threads

__all__ = ["REFERENCE", "Contender", "EngineContender", "EngineRunner", "Runner", "Timer"]

REFERENCE = "reference"


class Timer(Protocol):
    """Something whose time can be measured."""

    def measure(self, seconds: float) -> float:
        """Run for about `seconds` seconds, and return the median time of a run in seconds."""


class Runner(Timer, Protocol):
    """A contender that has loaded a task."""

    def results(self) -> Results:
        """Run once and return the results by name.

        They are "y", "h_n" and, of an LSTM, "c_n"; in training also "grad x", "grad h0", "grad c0" and "grad <param>".
        """


class Contender(Protocol):
    """Something that can do tasks."""

    @property
    def name(self) -> str:
        """Its name in reports."""

    def load(self, task: Task) -> Runner:
        """Prepare a task and its inputs, which are the same numbers for every contender."""


@dataclass(frozen=True, slots=True)
class EngineContender:
    """An engine of this process.

    Attributes
    ----------
    engine : str
        One of `fastrnn.engines.available()`.
    threads : int or None
        Number of threads. None: the task's.
    precision : str or None
        That of frozen weights. None: the task's.
    """

    engine: str
    threads: int | None = None
    precision: str | None = None

    @property
    def name(self) -> str:
        """The engine's name, or the number of threads if this contender has one of its own."""
        return self.engine if self.threads is None else counted(self.threads, "thread")

    def load(self, task: Task) -> EngineRunner:
        """See `Contender.load`."""
        task = replace(task, precision=self.precision or task.precision)
        return EngineRunner(self.engine, self.threads or task.threads, task.kind, Problem.draw(task))


class EngineRunner:
    """An engine and the problem that it solves."""

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
        """Give a function that does the task once.

        Within the context, engine and threads are selected. It begins when no other thread of the process works.
        """
        with self._selected():
            wait_until_idle()
            yield self._run

    @contextmanager
    def _selected(self) -> Iterator[None]:
        with engines.use(self._engine), num_threads(self._threads), blas.numpy_threads(self._threads):
            yield
