"""Contenders measured in turn, and the results of each task."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from fastrnn.bench.contenders import REFERENCE, Contender, EngineContender, Timer
from fastrnn.bench.tasks import Task
from fastrnn.bench.verification import Verification, expected, verify

__all__ = ["Outcome", "Result", "in_turn", "paced", "run", "uncertain"]


def uncertain(ratios: Sequence[float]) -> bool:
    """Whether there is only one round, or the ratios of the rounds differ by more than a factor of two."""
    return len(ratios) == 1 or max(ratios, default=0) > 2 * min(ratios, default=0)


@dataclass(slots=True)
class Outcome:
    """How one contender did.

    Attributes
    ----------
    name : str
        The contender's name.
    verification : Verification
        A contender that is wrong is not timed.
    seconds : list of float
        The time of a run, one value for each round.
    ratios : list of float
        This contender's time compared with the base's in the same round. `Result` says which is divided by which.
    """

    name: str
    verification: Verification
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @property
    def uncertain(self) -> bool:
        """See `measuring.uncertain`."""
        return uncertain(self.ratios)


@dataclass(slots=True)
class Result:
    """The results of one task.

    Attributes
    ----------
    task : Task
    base_seconds : list of float
        The time of a run of the base, one value for each round; empty if no contender was right. What the base is, and
        how a ratio is taken, depends on what is measured. By default the base is the reference, and a ratio is its time
        divided by an engine's. With peers the base is fastrnn, and a ratio is a peer's time divided by fastrnn's. With
        a roofline the base is the floor, and a ratio is the floor divided by an engine's time.
    outcomes : list of Outcome
        One for each contender.
    base_verification : Verification or None
        Of fastrnn, where it is the base.
    skipped : dict of str to str
        Contenders that did not take part, and why.
    """

    task: Task
    base_seconds: list[float]
    outcomes: list[Outcome]
    base_verification: Verification | None = None
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        """Whether fastrnn computed something wrong. Whether a peer did, its outcome says."""
        if self.base_verification is not None:
            return bool(self.base_verification.wrong)
        return any(outcome.verification.wrong for outcome in self.outcomes)

    def gflops(self, outcome: Outcome) -> float:
        """Operations in matrix products per nanosecond."""
        return self.task.flops / median(outcome.seconds) / 1e9


def run(
    selected: Sequence[Task], contenders: Sequence[Contender], rounds: int, seconds: float, budget: float = math.inf,
    base: Contender | None = None,
) -> Iterator[Result]:  # fmt: skip
    """Verify and time contenders beside a base, task by task.

    Parameters
    ----------
    selected : sequence of Task
    contenders : sequence of Contender
        What is compared with the base, which is not among them.
    rounds : int
        How many rounds. In each one, the base and then every contender is measured once.
    seconds : float
        How long each contender is measured in a round.
    budget : float, optional
        Seconds for all tasks. A task that would take more than its share gets fewer and shorter rounds, but at least
        one. Default: no limit.
    base : Contender, optional
        What contenders are compared with; it is not verified. Default: the reference.

    Yields
    ------
    Result
        One for each task, in order, as soon as it is measured.
    """
    base = base or EngineContender(REFERENCE)
    for task, ends in paced(selected, budget):
        expectation = expected(task)
        outcomes = [Outcome(contender.name, verify(contender, task, expectation)) for contender in contenders]
        result = Result(task, [], outcomes)
        pairs = zip(outcomes, contenders, strict=True)
        right = {outcome.name: contender for outcome, contender in pairs if not outcome.verification.wrong}
        if right:
            runners = [base.load(task), *(contender.load(task) for contender in right.values())]
            for of_base, *of_others in in_turn(runners, rounds, seconds, ends):
                result.base_seconds.append(of_base)
                for outcome, own in zip((o for o in outcomes if o.name in right), of_others, strict=True):
                    outcome.seconds.append(own)
                    outcome.ratios.append(of_base / own)
        yield result


Work = TypeVar("Work")


def paced(selected: Sequence[Work], budget: float) -> Iterator[tuple[Work, float]]:
    """Yield each piece of work, with the time at which its share of the remaining budget (in seconds) ends."""
    deadline = time.perf_counter() + budget
    for k, work in enumerate(selected):
        now = time.perf_counter()
        yield work, now + (deadline - now) / (len(selected) - k)


def in_turn(runners: Sequence[Timer], rounds: int, seconds: float, ends: float) -> Iterator[list[float]]:
    """Measure all of them one after the other, round by round; yield the seconds of each, for each round.

    Measurements become shorter and rounds fewer so that the last round ends at the time `ends`. There is at least one.
    """
    for _ in range(rounds):
        begin = time.perf_counter()
        part = min(seconds, max(0.0, ends - begin) / len(runners))
        yield [runner.measure(part) for runner in runners]
        now = time.perf_counter()
        if now + (now - begin) > ends:
            return
