"""fastrnn beside other libraries: each in a process of its own, verified, then measured in turn.

Each library has thread pools of its own, which would disturb each other within one process, and may be installed in
another interpreter. So each one, fastrnn included, runs `worker.py` in a process of its own, and only one of them works
at a time. All start from a state of zeros, and gradients are those of a loss that depends on y. For a step (T = 1),
fastrnn's stream keeps its state; no state is passed to the peers or read from them.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

import numpy as np

from fastrnn.bench.contenders import REFERENCE, EngineRunner
from fastrnn.bench.measuring import Outcome, Result, in_turn, paced
from fastrnn.bench.problems import Problem, Results
from fastrnn.bench.processes import python_path
from fastrnn.bench.tasks import DTYPES, KINDS, Task
from fastrnn.bench.verification import verified_task, verify

__all__ = ["PEERS", "ContenderError", "Peer", "ProcessContender", "find", "own_contender", "run", "summary"]

WORKER = Path(__file__).resolve().with_name("worker.py")


@dataclass(frozen=True, slots=True)
class Peer:
    """A library's title, and the tasks that it does."""

    title: str
    kinds: Sequence[str] = KINDS
    dtypes: Sequence[str] = DTYPES

    def declines(self, task: Task) -> str | None:
        """Return why it does not do a task, or None if it does."""
        if task.kind not in self.kinds:
            return f"no {task.kind}"
        return None if task.dtype in self.dtypes else f"no {task.dtype}"


# The names are those of `worker.LOADERS`. ONNX's runtimes do not train, and their recurrent operators take float32.
PEERS = {
    "torch": Peer("PyTorch"),
    "onnxruntime": Peer("ONNX Runtime", ("inference",), ("float32",)),
    "openvino": Peer("OpenVINO", ("inference",), ("float32",)),
    "jax": Peer("JAX"),
}
OWN = "fastrnn"


class ContenderError(Exception):
    """A contender's process could not carry out a command."""


class ProcessContender:
    """A contender in a process of its own, which `close` ends.

    Parameters
    ----------
    name : str
        One of `worker.LOADERS`.
    python : str
        The interpreter that runs it.
    environment : dict of str to str, optional
        Additional environment variables.
    """

    def __init__(self, name: str, python: str, environment: dict[str, str] | None = None) -> None:
        self.name, self.python, self.version = name, python, ""
        self._environment = environment or {}
        self._threads = 0
        self._task: Task | None = None
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None  # what the process writes to stderr

    def start(self, threads: int) -> None:
        """Start the process with this number of threads; end the one before, if there is one.

        Raises
        ------
        ContenderError
            If the interpreter cannot be run, or cannot import the library.
        """
        self.close()
        try:
            self._start(threads)
        except ContenderError:
            self.close()
            raise

    def _start(self, threads: int) -> None:
        count = str(threads)
        environment = {
            **os.environ, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "FASTRNN_NUM_THREADS": count,
            "PJRT_NPROC": count,  # JAX's
            **self._environment,
        }  # fmt: skip
        self._threads = threads
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [self.python, str(WORKER), self.name, count], env=environment, encoding="utf-8",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            )  # fmt: skip
        except OSError as error:
            raise ContenderError(f"{self.python}: {error.strerror or error}") from None
        self.version = self._answer()["version"]

    def load(self, task: Task) -> ProcessRunner:
        """See `Contender.load`. A task that is loaded already is not loaded again."""
        if self._process is None or self._threads != task.threads:
            self.start(task.threads)
        if task != self._task:
            self._task = None
            problem = Problem.draw(task)
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "problem.npz")
                np.savez(path, x=problem.x, dy=problem.dy, **problem.layer.params)
                self.ask("load", path=path, cell=task.cell, kind=task.kind)
            self._task = task
        return ProcessRunner(self)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send the process a command, a method of `worker.Worker`, and return its answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended; `_answer` reports it
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            assert self._errors is not None
            self._errors.seek(0)
            last = (self._errors.read().strip().splitlines() or ["nothing on stderr"])[-1]
            self.close()
            raise ContenderError(f"its process ended with status {status}: {last}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        self._task = None
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None


@dataclass(frozen=True, slots=True)
class ProcessRunner:
    """Runs the task that the process of a contender has loaded."""

    contender: ProcessContender

    def results(self) -> Results:
        """See `Runner.results`."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "results.npz")
            self.contender.ask("results", path=path)
            with np.load(path) as file:
                return {name: file[name] for name in file.files}

    def measure(self, seconds: float) -> float:
        """See `Runner.measure`."""
        return float(self.contender.ask("measure", seconds=seconds)["seconds"])


def own_contender(engine: str) -> ProcessContender:
    """Return fastrnn with an engine, in a process of its own."""
    return ProcessContender(OWN, sys.executable, {**python_path(), "FASTRNN_ENGINE": engine})


def find(pythons: Sequence[str], threads: int) -> tuple[list[ProcessContender], dict[str, str]]:
    """Start the peers that can be imported.

    Parameters
    ----------
    pythons : sequence of str
        Interpreters. A peer runs in the first one that can import it.
    threads : int
        The number of threads to start them with.

    Returns
    -------
    list of ProcessContender
        The peers that were found.
    dict of str to str
        For the name of each other peer, why it was not.
    """
    found, missing = [], {}
    for name in PEERS:
        reasons = []
        for python in pythons:
            contender = ProcessContender(name, python)
            try:
                contender.start(threads)
            except ContenderError as error:
                reasons.append(f"{python}: {error}")
            else:
                found.append(contender)
                break
        else:
            missing[name] = "; ".join(reasons)
    return found, missing


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
