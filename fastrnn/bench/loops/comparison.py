"""fastrnn's cells beside the loops, compiled and not, and beside its plain cells: verified, then measured in turn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from fastrnn.bench import measuring, processes
from fastrnn.bench.loops.variants import LOOP, PLAIN, Task, cost, missed
from fastrnn.bench.measuring import Outcome, in_turn, paced
from fastrnn.bench.peers import ProcessContender, expected, own_contender
from fastrnn.bench.processes import ContenderError
from fastrnn.bench.verification import verify

__all__ = ["COMPILED", "COMPILE_SECONDS", "RIVALS", "Result", "find", "own_contenders", "run", "summary"]

COMPILED = "compiled"  # the loop, with torch.compile
RIVALS = (LOOP, COMPILED)  # names of `worker.LOADERS`
COMPILE_SECONDS = 180.0  # what takes longer is given up, and reported


@dataclass(slots=True)
class Result(measuring.Result):
    """The results of one task; a ratio is another's time divided by that of fastrnn's variant."""

    task: Task


def own_contenders(engine: str) -> tuple[ProcessContender, ProcessContender]:
    """Return fastrnn with an engine in two processes of its own: for the variants, and for the plain cells."""
    return own_contender(engine), own_contender(engine)


def find(names: Iterable[str], pythons: Sequence[str], threads: int) -> tuple[list[ProcessContender], dict[str, str]]:
    """Start the loops of these names that can run; see `processes.find`."""

    def make(name: str, python: str) -> ProcessContender:
        if name == LOOP:
            return ProcessContender(name, python)
        # Compilers at work in the background would disturb what is measured.
        return ProcessContender(name, python, {"TORCHINDUCTOR_COMPILE_THREADS": "1"}, COMPILE_SECONDS)

    return processes.find(names, make, pythons, threads)


def run(
    selected: Sequence[Task], own: ProcessContender, plain: ProcessContender, loops: Sequence[ProcessContender],
    rounds: int, seconds: float, budget: float = math.inf,
) -> Iterator[Result]:  # fmt: skip
    """Verify and time fastrnn's variants, its plain cells and the loops, task by task.

    What is random is verified with all probabilities at zero, where every contender must compute the same, and is timed
    with those of the variant.

    Parameters
    ----------
    selected : sequence of Task
    own, plain : ProcessContender
        From `own_contenders`. `own` is the base: a ratio is another's time divided by its own. If it is wrong in a
        task, nothing is timed.
    loops : sequence of ProcessContender
        From `find`. One that fails in a task, or takes too long to compile it, is skipped.
    rounds, seconds, budget
        As for `measuring.run`.

    Yields
    ------
    Result
        One for each task, in order, as soon as it is measured. The plain cell's outcome comes first.

    Raises
    ------
    ContenderError
        If fastrnn itself fails.
    """
    for task, ends in paced(selected, budget):
        expectation = expected(task.settled)
        result = Result(task, [], [], verify(own, task.settled, expectation))
        runners = [own.load(task)]
        beside = Outcome(PLAIN, verify(plain, task.beside, expected(task.beside)))
        if not beside.verification.wrong:
            runners.append(plain.load(task.beside))
        result.outcomes.append(beside)
        for loop in loops:
            try:
                outcome = Outcome(loop.name, verify(loop, task.settled, expectation))
                if not outcome.verification.wrong:
                    runners.append(loop.load(task))
                result.outcomes.append(outcome)
            except ContenderError as error:
                result.skipped[loop.name] = str(error).partition("\n")[0]
        timed = [outcome for outcome in result.outcomes if not outcome.verification.wrong]
        if timed and not result.wrong:
            for of_own, *of_others in in_turn(runners, rounds, seconds, ends):
                result.base_seconds.append(of_own)
                for outcome, of_other in zip(timed, of_others, strict=True):
                    outcome.seconds.append(of_other)
                    outcome.ratios.append(of_other / of_own)
        yield result


def summary(results: Sequence[Result]) -> list[str]:
    """Return a line for each variant and kind: beside the loops and the plain cell, and where a target is missed."""
    lines = []
    for variant, kind in dict.fromkeys((result.task.variant, result.task.kind) for result in results):
        own = [result for result in results if (result.task.variant, result.task.kind) == (variant, kind)]
        words = (
            standing(own, LOOP, "times as fast as the loop", variant.faster),
            standing(own, COMPILED, "times as fast as the compiled loop", None),
            standing(own, PLAIN, f"times the time of the plain {variant.plain}", variant.dearer),
        )
        if any(words):
            lines.append(f"{variant} {kind}: {'; '.join(filter(None, words))}")
    return lines


def standing(results: Sequence[Result], name: str, text: str, target: float | None) -> str:
    """Return the range of a variant's figures beside a contender, and what misses the target; nothing without any."""
    pairs = [(r.task, o) for r in results for o in r.outcomes if o.name == name and o.ratios]
    if not pairs:
        return ""
    figures = [cost(outcome) if name == PLAIN else median(outcome.ratios) for _, outcome in pairs]
    words = f"{min(figures):.2f} to {max(figures):.2f} {text}"
    if target is None:
        return words
    short = [
        f"{task.case} ({figure:.2f})"
        for (task, outcome), figure in zip(pairs, figures, strict=True) if missed(task.variant, outcome)
    ]  # fmt: skip
    return f"{words} (target {target:g}{', missed in ' * bool(short)}{', '.join(short)})"
