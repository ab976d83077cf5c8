"""Contenders in turn: what came of each task."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from fastrnn.bench.contenders import REFERENCE, Contender, EngineContender
from fastrnn.bench.tasks import Task
from fastrnn.bench.verification import Verification, expected, verify

__all__ = ["Outcome", "Result", "run"]


@dataclass(slots=True)
class Outcome:
    """How one contender did.

    Attributes
    ----------
    name : str
        The contender's.
    verification : Verification
        One that is wrong is not timed.
    seconds : list of float
        Of a run, a value a round.
    ratios : list of float
        The reference's time in a round divided by this contender's in the same round.
    """

    name: str
    verification: Verification
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @property
    def uncertain(self) -> bool:
        """Whether there is but one round, or rounds whose ratios differ by more than a factor of two."""
        return len(self.ratios) == 1 or max(self.ratios, default=0) > 2 * min(self.ratios, default=0)


@dataclass(slots=True)
class Result:
    """What came of one task.

    Attributes
    ----------
    task : Task
    reference_seconds : list of float
        Of a run of the reference, a value a round; empty if no contender was right.
    outcomes : list of Outcome
        One for each contender.
    """

    task: Task
    reference_seconds: list[float]
    outcomes: list[Outcome]

    def gflops(self, outcome: Outcome) -> float:
        """Operations in matrix products a nanosecond."""
        return self.task.flops / median(outcome.seconds) / 1e9


def run(
    selected: Sequence[Task], contenders: Sequence[Contender], rounds: int, seconds: float, budget: float = math.inf
) -> Iterator[Result]:
    """Verify and time contenders beside the reference, task by task.

    Parameters
    ----------
    selected : sequence of Task
    contenders : sequence of Contender
        The reference is measured beside them and is not one of them.
    rounds : int
        In each, the reference and then every contender is measured once.
    seconds : float
        How long each is measured in a round.
    budget : float, optional
        Seconds for everything: a task whose share is spent gets fewer and shorter rounds, but at least one. Default:
        no limit.

    Yields
    ------
    Result
        One for each task, in order, as soon as it is measured.
    """
    deadline = time.perf_counter() + budget
    for k, task in enumerate(selected):
        begin = time.perf_counter()
        share_ends = begin + (deadline - begin) / (len(selected) - k)
        expectation = expected(task)
        outcomes = [Outcome(contender.name, verify(contender, task, expectation)) for contender in contenders]
        result = Result(task, [], outcomes)
        runners = [
            (outcome, contender.load(task))
            for outcome, contender in zip(outcomes, contenders, strict=True)
            if not outcome.verification.wrong
        ]
        if runners:
            reference = EngineContender(REFERENCE).load(task)
            for _ in range(rounds):
                round_begins = time.perf_counter()
                part = min(seconds, max(0.0, share_ends - round_begins) / (1 + len(runners)))
                of_reference = reference.measure(part)
                of_others = [runner.measure(part) for _, runner in runners]
                result.reference_seconds.append(of_reference)
                for (outcome, _), own in zip(runners, of_others, strict=True):
                    outcome.seconds.append(own)
                    outcome.ratios.append(of_reference / own)
                now = time.perf_counter()
                if now + (now - round_begins) > share_ends:
                    break
        yield result
