"""fastrnn beside other libraries: each in a process of its own, verified, then measured in turn.

Each library has thread pools of its own, which would disturb each other within one process, and may be installed in
another interpreter. So each one, fastrnn included, runs `worker.py` in a process of its own, and only one of them works
at a time. All start from a state of zeros, and gradients are those of a loss that depends on y. For a step (T = 1),
fastrnn's stream keeps its state; no state is passed to the peers or read from them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from fastrnn.bench import processes
from fastrnn.bench.contenders import REFERENCE, EngineRunner
from fastrnn.bench.measuring import Outcome, Result, in_turn, paced
from fastrnn.bench.problems import Problem, Results
from fastrnn.bench.processes import ContenderError, WorkerProcess, python_path
from fastrnn.bench.tasks import DTYPES, KINDS, Task
from fastrnn.bench.verification import verified_task, verify

__all__ = ["PEERS", "Peer", "ProcessContender", "find", "own_contender", "run", "summary"]


EVERY = ("rnn", "lstm", "gru")


@dataclass(frozen=True, slots=True)
class Peer:
    """A library's title, and the tasks that it does: their kinds, and the cells that it has in each precision."""

    title: str
    kinds: Sequence[str] = KINDS
    precisions: Mapping[str, Sequence[str]] = field(default_factory=lambda: dict.fromkeys(DTYPES, EVERY))

    def declines(self, task: Task) -> str | None:
        """Return why it does not do a task, or None if it does."""
        if task.kind not in self.kinds:
            return f"no {task.kind}"
        if task.precision not in self.precisions:
            return f"no {task.precision}"
        return None if task.cell in self.precisions[task.precision] else f"no {task.precision} {task.cell}"


# The names are those of `worker.LOADERS`. ONNX's runtimes do not train, and their recurrent operators take float32; in
# int8 ONNX Runtime has one of its own, for LSTMs.
PEERS = {
    "torch": Peer("PyTorch", precisions={**dict.fromkeys((*DTYPES, "bfloat16"), EVERY), "int8": ("lstm", "gru")}),
    "onnxruntime": Peer("ONNX Runtime", ("inference",), {"float32": EVERY, "int8": ("lstm",)}),
    "openvino": Peer("OpenVINO", ("inference",), {"float32": EVERY, "bfloat16": EVERY}),
    "jax": Peer("JAX"),
}
OWN = "fastrnn"


class ProcessContender(WorkerProcess):
    """A contender in a process of its own."""

    _threads = 0
    _task: Task | None = None  # the one that is loaded

    def start(self, threads: int) -> None:
        """See `WorkerProcess.start`."""
        super().start(threads)
        self._threads = threads

    def load(self, task: Task) -> ProcessContender:
        """See `Contender.load`. A task that is loaded already is not loaded again."""
        if not self.running or self._threads != task.threads:
            self.start(task.threads)
        if task != self._task:
            self._task = None
            problem = Problem.draw(task)
            arrays = {"x": problem.x, "dy": problem.dy, **problem.layer.params}
            options = dict(task.options)
            self.send("load", arrays, cell=task.cell, options=options, kind=task.kind, precision=task.precision)
            self._task = task
        return self

    def close(self) -> None:
        """See `WorkerProcess.close`."""
        self._task = None
        super().close()


def own_contender(engine: str) -> ProcessContender:
    """Return fastrnn with an engine, in a process of its own."""
    return ProcessContender(OWN, sys.executable, {**python_path(), "FASTRNN_ENGINE": engine})


def find(pythons: Sequence[str], threads: int) -> tuple[list[ProcessContender], dict[str, str]]:
    """Start the peers that can be imported; see `processes.find`."""
    return processes.find(PEERS, ProcessContender, pythons, threads)


def run(
    selected: Sequence[Task], own: ProcessContender, peers: Sequence[ProcessContender], rounds: int, seconds: float,
    budget: float = math.inf,
) -> Iterator[Result]:  # fmt: skip
    """Verify and time peers beside fastrnn, task by task.

    Parameters
    ----------
    selected : sequence of Task
    own : ProcessContender
        fastrnn, the base: a ratio is a peer's time divided by fastrnn's. If it is wrong in a task, nothing is timed.
    peers : sequence of ProcessContender
        A peer that does not do a task, or fails in it, is skipped.
    rounds, seconds, budget
        As for `measuring.run`.

    Yields
    ------
    Result
        One for each task, in order, as soon as it is measured.

    Raises
    ------
    ContenderError
        If fastrnn itself fails.
    """
    for task, ends in paced(selected, budget):
        expectation = expected(task)
        result = Result(task, [], [], verify(own, task, expectation))
        runners = [own.load(task)]
        for peer in peers:
            reason = PEERS[peer.name].declines(task)
            try:
                if reason is not None:
                    raise ContenderError(reason)
                outcome = Outcome(peer.name, verify(peer, task, expectation))
                if not outcome.verification.wrong:
                    runners.append(peer.load(task))
                result.outcomes.append(outcome)
            except ContenderError as error:
                result.skipped[peer.name] = str(error)
        timed = [outcome for outcome in result.outcomes if not outcome.verification.wrong]
        if timed and not result.wrong:
            for of_own, *of_peers in in_turn(runners, rounds, seconds, ends):
                result.base_seconds.append(of_own)
                for outcome, of_peer in zip(timed, of_peers, strict=True):
                    outcome.seconds.append(of_peer)
                    outcome.ratios.append(of_peer / of_own)
        yield result


def expected(task: Task) -> Results:
    """As `verification.expected`, but only what every peer returns: y, and gradients of x and of the parameters."""
    task = verified_task(task)
    problem = Problem.draw(task).at_rest().in_float64()
    results = EngineRunner(REFERENCE, task.threads, task.kind, problem).results()
    wanted = {"y", "grad x", *(f"grad {name}" for name in problem.layer.params)}
    return {name: value for name, value in results.items() if name in wanted}


def fastest(result: Result) -> Outcome | None:
    """Return the peer with the smallest ratio, or None if none was timed."""
    return min((o for o in result.outcomes if o.ratios), key=lambda o: median(o.ratios), default=None)


def summary(results: Sequence[Result]) -> list[str]:
    """Return lines that say how far fastrnn was ahead of all peers and of each one, and where it was not."""
    best = {result.task: (median(o.ratios), o.name) for result in results if (o := fastest(result)) is not None}
    lines = [standing("every peer", best)] if best else []
    for name in PEERS:
        outcomes = {result.task: o for result in results for o in result.outcomes if o.name == name}
        ratios = {task: (median(o.ratios), "") for task, o in outcomes.items() if o.ratios}
        if ratios:
            lines.append(standing(name, ratios))
        wrong = [str(task) for task, o in outcomes.items() if o.verification.wrong]
        if wrong:
            lines.append(f"{name} was wrong in {', '.join(wrong)}")
    return lines


def standing(rival: str, ratios: dict[Task, tuple[float, str]]) -> str:
    """Return the line about a rival, from the ratio of each task and, if they differ, the name of its peer."""
    words = {task: f"{ratio:.2f} x {name}".rstrip() for task, (ratio, name) in ratios.items()}
    behind = [f"{task} ({words[task]})" for task, (ratio, _) in ratios.items() if ratio <= 1]
    least = min(ratios, key=lambda task: ratios[task])
    return (
        f"ahead of {rival} in {len(ratios) - len(behind)} of {len(ratios)}: "
        f"median {median(ratio for ratio, _ in ratios.values()):.2f} x, least {words[least]} ({least})"
        + (f"; behind in {', '.join(behind)}" if behind else "")
    )
