"""Whole models in each library: each in a process of its own, verified, then measured in turn."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import geometric_mean, median
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines
from fastrnn.bench import processes
from fastrnn.bench.contenders import REFERENCE
from fastrnn.bench.measuring import Outcome, in_turn, paced
from fastrnn.bench.models import kit
from fastrnn.bench.models.rows import Row, draw
from fastrnn.bench.problems import Results
from fastrnn.bench.processes import ContenderError, WorkerProcess, python_path
from fastrnn.bench.verification import Verification
from fastrnn.data import Batch

__all__ = ["BASE", "CONTENDERS", "OWN", "Contender", "Memory", "Place", "Result", "find", "run", "summary", "to_loss"]

# By how much results may differ from those of the reference engine in float64, relative to the largest value of each
# array; of ids, the share of the sentences that may differ, because rounding decides where two ids are as likely.
TOLERANCE = {"loss": 1e-5, "grad": 1e-3, "ids": 1 / 32}


@dataclass(frozen=True, slots=True)
class Contender:
    """A library's title, whether it runs our code, and the models that it has."""

    title: str
    ours: bool = False
    models: Sequence[str] = tuple(kit.MODELS)


# The names are those of `worker.MODELS`.
CONTENDERS = {
    "torch": Contender("PyTorch"),
    "kit": Contender("fastrnn's kit", ours=True),
    "accelerate": Contender("PyTorch with fastrnn.torch.accelerate", ours=True),
    "jax": Contender("JAX", models=("LanguageModel",)),
}
BASE, OWN = "torch", "kit"


@dataclass(frozen=True, slots=True)
class Memory:
    """The size of a process in bytes.

    Attributes
    ----------
    peak : int
        The largest size, while the model was trained or decoded; 0 where the system does not say.
    before : int
        Before the model was built, with the library imported.
    """

    peak: int
    before: int

    @property
    def above(self) -> int:
        """How much the model, its training and its batches took."""
        return self.peak - self.before


@dataclass(slots=True)
class Result:
    """How the contenders did in a row.

    Attributes
    ----------
    task : Row
    targets : int
        How many targets a measurement has.
    outcomes : list of Outcome
        A ratio is PyTorch's time divided by the contender's in the same round; PyTorch's own ratios are 1. Without
        PyTorch there are none.
    memory : dict of str to Memory
        Of each contender that was timed.
    skipped : dict of str to str
        Contenders that did not take part, and why.
    """

    task: Row
    targets: int
    outcomes: list[Outcome] = field(default_factory=list)
    memory: dict[str, Memory] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        """Whether any contender computed something else than the reference."""
        return any(outcome.verification.wrong for outcome in self.outcomes)

    def speed(self, outcome: Outcome) -> float:
        """Targets per second: the median over the rounds."""
        return self.targets / median(outcome.seconds)


def find(pythons: Sequence[str], threads: int, engine: str) -> tuple[list[WorkerProcess], dict[str, str]]:
    """Return the contenders that can be imported, not running, and for each other one why it cannot.

    Parameters
    ----------
    pythons : sequence of str
        Interpreters. A contender runs in the first one that can import its library; fastrnn's kit in this one.
    threads : int
    engine : str
        fastrnn's.
    """
    ours = {**python_path(), "FASTRNN_ENGINE": engine}

    def make(name: str, python: str) -> WorkerProcess:
        if name == OWN:
            python = sys.executable
        return WorkerProcess(name, python, ours if CONTENDERS[name].ours else None)

    found, missing = processes.find(CONTENDERS, make, pythons, threads)
    for process in found:
        process.close()
    return found, missing


def run(
    rows: Sequence[Row], contenders: Sequence[WorkerProcess], threads: int, rounds: int, seconds: float, budget: float
) -> Iterator[Result]:
    """Verify and time contenders, row by row, each in a fresh process for each row.

    If one of them is wrong in a row, none is timed there.

    Parameters
    ----------
    rows : sequence of Row
    contenders : sequence of WorkerProcess
        From `find`. One that does not have a row's model, or fails, is skipped.
    threads : int
    rounds, seconds, budget
        As for `measuring.run`. A measurement goes through the row's batches at least once.

    Yields
    ------
    Result
        One for each row, in order, as soon as it is measured.

    Raises
    ------
    ContenderError
        If fastrnn's kit itself fails.
    """
    for row, ends in paced(rows, budget):
        params, batches = draw(row)
        expectation, steps = expected(row, params, batches), max(len(batch.x) for batch in batches)
        result, runners = Result(row, row.targets(batches)), []
        try:
            for process in contenders:
                try:
                    if row.model not in CONTENDERS[process.name].models:
                        raise ContenderError(f"has no {row.model}")
                    process.start(threads)
                    build(process, row, params, batches)
                    outcome = Outcome(process.name, verify(process.results(), expectation, steps))
                    process.measure(0)  # warms up
                    process.ask("memory")  # the peak of what follows counts
                    runners.append(process)
                    result.outcomes.append(outcome)
                except ContenderError as error:
                    if process.name == OWN:
                        raise
                    result.skipped[process.name] = str(error)
            if not result.wrong:
                for times in in_turn(runners, rounds, seconds, ends):
                    own = dict(zip((process.name for process in runners), times, strict=True))
                    for outcome in result.outcomes:
                        outcome.seconds.append(own[outcome.name])
                        if BASE in own:
                            outcome.ratios.append(own[BASE] / own[outcome.name])
                result.memory = {process.name: Memory(**process.ask("memory")) for process in runners}
        finally:
            for process in contenders:
                process.close()
        yield result


def build(
    process: WorkerProcess, row: Row, params: Mapping[str, NDArray], batches: Sequence[Batch],
    valid: Sequence[Batch] = (), steps: int | None = None,
) -> None:  # fmt: skip
    """Let a process build a row's model; see `worker.Worker.build`."""
    arrays = {f"param {name}": value for name, value in params.items()}
    for what, source in (("batch", batches), ("valid", valid)):
        for k, batch in enumerate(source):
            given = {"x": batch.x, "y": batch.y, "x_lengths": batch.x_lengths, "y_lengths": batch.y_lengths}
            arrays |= {f"{what} {k} {name}": value for name, value in given.items() if value is not None}
            arrays[f"{what} {k} follows"] = np.array(batch.follows)
    process.send("build", arrays, model=row.model, sizes=dict(row.sizes), kind=row.kind, steps=steps)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a training is.

    Attributes
    ----------
    name : str
        The contender's.
    steps : int
    seconds : float
        Of training alone.
    loss : float
        On the batches that it does not learn from.
    """

    name: str
    steps: int
    seconds: float
    loss: float


def to_loss(
    row: Row, batches: Sequence[Batch], valid: Sequence[Batch], contenders: Sequence[WorkerProcess], threads: int,
    goal: float, steps: int, minutes: float,
) -> Iterator[Place]:  # fmt: skip
    """Train a row's model in each contender, some steps in turn, until each has reached the same loss.

    All begin with the same weights, and take the same batches in the same order; only dropout differs.

    Parameters
    ----------
    row : Row
        Of training. Its own batches are not used.
    batches, valid : sequence of Batch
        To learn from, over and over, and to take the loss of.
    contenders : sequence of WorkerProcess
        From `find`, all of which have the row's model.
    threads : int
    goal : float
        The loss at which a contender stops.
    steps : int
        How many training steps are taken between two looks at the loss.
    minutes : float
        After so many minutes of training a contender stops, whatever its loss is.

    Yields
    ------
    Place
        After each look at the loss.
    """
    params, _ = draw(row)
    places = {process.name: Place(process.name, 0, 0.0, float("inf")) for process in contenders}
    try:
        for process in contenders:
            process.start(threads)
            build(process, row, params, batches, valid, steps)
        training = list(contenders)
        while training:
            for process in training:
                at = places[process.name]
                seconds = at.seconds + process.ask("once")["seconds"]
                place = Place(process.name, at.steps + steps, seconds, float(process.results()["loss"]))
                places[process.name] = place
                yield place
            training = [
                process for process in training
                if places[process.name].loss > goal and places[process.name].seconds < 60 * minutes
            ]  # fmt: skip
    finally:
        for process in contenders:
            process.close()


def expected(row: Row, params: Mapping[str, NDArray], batches: Sequence[Batch]) -> Results:
    """Return what the kit computes on the reference engine in float64."""
    given = [SimpleNamespace(x=wide(b.x), y=wide(b.y), x_lengths=b.x_lengths, y_lengths=b.y_lengths, follows=b.follows)
             for b in batches]  # fmt: skip
    problem = SimpleNamespace(
        model=row.model, sizes=SimpleNamespace(**row.sizes), kind=row.kind, batches=given, valid=[], steps=0,
        params={name: wide(value) for name, value in params.items()},
    )  # fmt: skip
    with engines.use(REFERENCE):
        return kit.load(problem)[1]()


def wide(a: Any) -> Any:
    return a.astype(np.float64) if a.dtype == np.float32 else a


def verify(actual: Results, expectation: Results, steps: int) -> Verification:
    errors = {name: error(name, actual.get(name), value) for name, value in expectation.items()}
    wrong = [name for name, found in errors.items() if not found <= TOLERANCE[name.split()[0]]]
    return Verification(steps, errors, tuple(wrong))


def error(name: str, actual: NDArray | None, expectation: NDArray) -> float:
    """Return how far a result is off, in the terms of `TOLERANCE`."""
    if actual is None or actual.shape != expectation.shape:
        return float("inf")
    if name == "ids":
        return float((actual != expectation).any(axis=-1).mean())
    largest = np.abs(expectation).max()
    return float(np.abs(actual - expectation).max() / (largest if largest else 1))


def summary(results: Sequence[Result]) -> list[str]:
    """Return lines about each contender beside PyTorch: the mean, the least, the losses, and what was wrong."""
    lines = []
    for name in (name for name in CONTENDERS if name != BASE):
        outcomes = {str(result.task): o for result in results for o in result.outcomes if o.name == name}
        ratios = {row: median(o.ratios) for row, o in outcomes.items() if o.ratios}
        if ratios:
            least = min(ratios, key=lambda row: ratios[row])
            behind = [f"{row} ({ratio:.2f})" for row, ratio in ratios.items() if ratio <= 1]
            lines.append(
                f"{name}: {geometric_mean(ratios.values()):.2f} times as fast as PyTorch in the geometric mean of "
                f"{len(ratios)}, at least {ratios[least]:.2f} ({least})"
                + (f"; behind in {', '.join(behind)}" if behind else "")
            )
    lines += [
        f"wrong: {outcome.name}, {result.task}: {outcome.verification}"
        for result in results for outcome in result.outcomes if outcome.verification.wrong
    ]  # fmt: skip
    return lines
