"""Calls with all threads beside calls with one thread, where others want the cores, too: is a call ever slower for it?

A *situation* is what goes on beside the calls: another process computes, another library's threads spin, or several
Python threads call at once. Some come in several *variants*, such as rests of different lengths. Within a variant, each
case is measured in turn: with one thread, then with all threads, then with one thread again, and so on. The ratios are
taken within each round.

Each situation has a process of its own for each provider of threads. So none of them meets threads that another one has
started, and no provider goes alone because another one has found the cores busy.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

import numpy as np

import fastrnn
from fastrnn.bench.measuring import in_turn, paced
from fastrnn.bench.problems import Problem, solve
from fastrnn.bench.processes import python_path
from fastrnn.bench.tasks import CASES as SIZES
from fastrnn.bench.tasks import Sizes
from fastrnn.bench.worker import median_seconds, wait_until_idle
from fastrnn.engines import blas

__all__ = [
    "CASES", "LOSS_LIMIT", "QUICK_CASES", "SITUATIONS", "Case", "Conditions", "Job", "Timing", "UnavailableError",
    "jobs", "measured", "run", "summary",
]  # fmt: skip

LOSS_LIMIT = 1.15  # times as long as with one thread: no call should take longer with more
LEAST_SAMPLES = 3  # of calls that cannot follow each other at once
RESTS = (1, 5, 20, 50, 120, 200)  # ms between bursts
BURST = 7  # calls
CALLERS = (2, 4, 8)

# ---- What is measured ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """A call of an LSTM in float32.

    Attributes
    ----------
    name : str
    kind : str
        "inference" or "training", as in `tasks.Task`, but from a state of zeros.
    sizes : Sizes
    bidirectional : bool
    """

    name: str
    kind: str
    sizes: Sizes
    bidirectional: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def problem(self) -> Problem:
        """Draw parameters and inputs."""
        rng = np.random.default_rng(0)
        T, B, I, H = self.sizes
        layer = fastrnn.LSTM(I, H, bidirectional=self.bidirectional, rng=rng)
        x, dy = (rng.standard_normal((T, B, n), np.float32) for n in (I, layer.output_size))
        return Problem(layer, x, (), dy, ())


CASES = (
    Case("b32h128", "inference", SIZES["b32h128"]),
    Case("b32h128", "training", SIZES["b32h128"]),
    Case("b256h64", "inference", SIZES["b256h64"]),
    Case("b8h256", "inference", SIZES["b8h256"]),
    Case("lat256", "inference", SIZES["lat256"]),
    Case("bi512", "inference", Sizes(30, 1, 512, 512), bidirectional=True),
)
QUICK_CASES = (CASES[0], CASES[4])


@dataclass(frozen=True, slots=True)
class Job:
    """A case in a variant of a situation, with threads of a provider."""

    situation: str
    provider: str
    variant: str
    case: Case

    def __str__(self) -> str:
        return f"{self.variant}, {self.case}, {self.provider}"


def jobs(situations: Sequence[str], providers: Sequence[str], cases: Sequence[Case]) -> list[Job]:
    """Return a job for each case in each variant of the situations, which are keys of `SITUATIONS`."""
    return [
        Job(name, provider, variant, case)
        for name in situations for provider in providers for variant in SITUATIONS[name] for case in cases
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the calls of a job took.

    Attributes
    ----------
    task : Job
    one_thread : list of float
        Seconds of a call with one thread, one value for each round.
    all_threads : list of float
        The same with all threads.
    skipped : str
        Why nothing was measured; else empty.
    """

    task: Job
    one_thread: list[float]
    all_threads: list[float]
    skipped: str = ""

    @property
    def ratios(self) -> list[float]:
        """The time with all threads over the time with one, for each round."""
        return [all_ / one for all_, one in zip(self.all_threads, self.one_thread, strict=True)]


@dataclass(frozen=True, slots=True)
class Conditions:
    """How jobs are measured.

    Attributes
    ----------
    engine : str
    threads : int
        How many all threads are.
    rounds : int
        In each one, one thread and then all threads are measured once.
    seconds : float
        How long a measurement takes. It has a few calls at least, and in bursts these take longer.
    budget : float
        Seconds for all jobs; see `measuring.run`.
    """

    engine: str
    threads: int
    rounds: int
    seconds: float
    budget: float = math.inf


# ---- Situations ----------------------------------------------------------------------------------------------------
#
# Each is a context manager. Its body runs in the situation, and it gives the function that measures there: from a call
# and about how many seconds to measure, it returns the seconds that a call takes.

Measure = Callable[[Callable[[], Any], float], float]


class UnavailableError(Exception):
    """Something that a situation needs is not there."""


@contextmanager
def idle() -> Iterator[Measure]:
    """Nothing else runs, so far as this benchmark knows."""
    yield median_seconds


# It ends by itself when its stdin is closed, so it never outlives the process that started it.
SPIN = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print(flush=True)
while True:
    pass
"""


@contextmanager
def busy() -> Iterator[Measure]:
    """Another process computes on one core all the time."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", SPIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as spinner:
        try:
            assert spinner.stdout is not None
            spinner.stdout.readline()  # it has begun
            yield median_seconds
        finally:
            spinner.kill()


def after(before: Callable[[], Any], calls: int = 1) -> Measure:
    """Return a measure of so many calls in a row, after something that is not timed."""

    def measure(call: Callable[[], Any], seconds: float) -> float:
        samples: list[float] = []
        before()
        call()
        end = time.perf_counter() + seconds
        while len(samples) < LEAST_SAMPLES or time.perf_counter() < end:
            before()
            begin = time.perf_counter()
            for _ in range(calls):
                call()
            samples.append((time.perf_counter() - begin) / calls)
        return median(samples)

    return measure


@contextmanager
def beside_openblas() -> Iterator[Measure]:
    """Before each call NumPy multiplies small matrices, so that the threads of its BLAS spin."""
    control = blas.numpy_control()
    if control is None:
        raise UnavailableError("NumPy's BLAS is none whose number of threads is known")
    if control[1]() == 1:
        raise UnavailableError("NumPy's BLAS has one thread")
    a = np.ones((300, 300), np.float32)
    out = np.empty_like(a)
    yield after(lambda: np.matmul(a, a, out))


@contextmanager
def beside_onnxruntime() -> Iterator[Measure]:
    """Before each call ONNX Runtime runs a model of three products."""
    onnxruntime, onnx = required("onnxruntime", "onnx")
    value, helper, n = onnx.helper.make_tensor_value_info, onnx.helper, 256
    weights = onnx.numpy_helper.from_array(np.full((n, n), 1 / n, np.float32), "W")
    names = ["X", "A", "B", "Y"]
    nodes = [helper.make_node("MatMul", [a, "W"], [b]) for a, b in itertools.pairwise(names)]
    shown = [[value(name, onnx.TensorProto.FLOAT, [n, n])] for name in ("X", "Y")]
    model = helper.make_model(
        helper.make_graph(nodes, "products", *shown, [weights]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8  # as in worker.py
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = fastrnn.get_num_threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.ones((n, n), np.float32)
    yield after(lambda: session.run(None, {"X": x}))


@contextmanager
def beside_torch() -> Iterator[Measure]:
    """Before each call PyTorch adds some million numbers."""
    (torch,) = required("torch")
    torch.set_num_threads(fastrnn.get_num_threads())
    a = torch.ones(1 << 22)
    yield after(lambda: torch.add(a, 1, out=a))


def required(*names: str) -> list[Any]:
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UnavailableError(str(error)) from error


@contextmanager
def bursts(rest: float) -> Iterator[Measure]:
    """Calls come several in a row, with rests of so many seconds in between."""
    yield after(lambda: time.sleep(rest), BURST)


@contextmanager
def callers(n: int) -> Iterator[Measure]:
    """So many Python threads call at once. The time of a call is that of all calls divided by their number."""
    with ThreadPoolExecutor(n) as pool:

        def measure(call: Callable[[], Any], seconds: float) -> float:
            def once(_: int) -> None:
                call()  # what it returns is freed before the next one

            def together(calls: int) -> float:
                begin = time.perf_counter()
                for _ in pool.map(once, range(calls)):
                    pass
                return (time.perf_counter() - begin) / calls

            return together(n * max(2, round(seconds / together(n) / n)))

        yield measure


@contextmanager
def one_core() -> Iterator[Measure]:
    """All threads of the process are held to one CPU."""
    if not hasattr(os, "sched_setaffinity"):
        raise UnavailableError("this system does not hold processes to CPUs")
    before = os.sched_getaffinity(0)
    hold_to({min(before)})
    try:
        yield median_seconds
    finally:
        hold_to(before)


def hold_to(cpus: set[int]) -> None:
    """Allow these CPUs to every thread of the process. New threads get them from the thread that starts them."""
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread.name), cpus)


# For each situation its variants.
SITUATIONS: dict[str, dict[str, Callable[[], AbstractContextManager[Measure]]]] = {
    "idle": {"idle": idle},
    "busy": {"busy": busy},
    "openblas": {"openblas": beside_openblas},
    "onnxruntime": {"onnxruntime": beside_onnxruntime},
    "torch": {"torch": beside_torch},
    "bursts": {f"bursts, {rest} ms": partial(bursts, rest / 1000) for rest in RESTS},
    "callers": {f"{n} callers": partial(callers, n) for n in CALLERS},
    "one-core": {"one-core": one_core},
}

# ---- Measuring -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """A call with a number of threads."""

    threads: int
    call: Callable[[], Any]
    how: Measure

    def measure(self, seconds: float) -> float:
        """See `contenders.Timer.measure`. Sets the threads of the process."""
        fastrnn.set_num_threads(self.threads)
        wait_until_idle()  # the one before may have left threads that spin
        return self.how(self.call, seconds)


def measured(selected: Sequence[Job], conditions: Conditions) -> Iterator[Timing]:
    """Measure jobs in this process, whose provider and number of threads change.

    Parameters
    ----------
    selected : sequence of Job
    conditions : Conditions
        Of these the engine is that of the process.

    Yields
    ------
    Timing
        One for each job, in order.
    """
    for job, ends in paced(selected, conditions.budget):
        fastrnn.set_threading(job.provider)
        fastrnn.set_num_threads(conditions.threads)
        try:
            with SITUATIONS[job.situation][job.variant]() as measure:
                call, _ = solve(job.case.kind, job.case.problem())
                settings = [Setting(threads, call, measure) for threads in (1, conditions.threads)]
                times = list(in_turn(settings, conditions.rounds, conditions.seconds, ends))
        except UnavailableError as error:
            yield Timing(job, [], [], str(error))
        else:
            of_one, of_all = zip(*times, strict=True)
            yield Timing(job, list(of_one), list(of_all))


def run(
    situations: Sequence[str], providers: Sequence[str], cases: Sequence[Case], conditions: Conditions
) -> Iterator[Timing]:
    """Measure cases in situations, each situation in a process of its own for each provider.

    Parameters
    ----------
    situations : sequence of str
        Keys of `SITUATIONS`.
    providers : sequence of str
        Providers of threads, as for `fastrnn.set_threading`.
    cases : sequence of Case
    conditions : Conditions

    Yields
    ------
    Timing
        One for each of `jobs(situations, providers, cases)`, in order, as soon as it is measured.

    Raises
    ------
    subprocess.CalledProcessError
        If a process fails.
    """
    for (situation, provider), ends in paced(list(itertools.product(situations, providers)), conditions.budget):
        request = {
            "situation": situation, "provider": provider, "cases": list(map(asdict, cases)), **asdict(conditions),
            "budget": ends - time.perf_counter(),
        }  # fmt: skip
        with subprocess.Popen(
            [sys.executable, "-c", "from fastrnn.bench import situations; situations.main()", json.dumps(request)],
            env={**os.environ, **python_path(), "FASTRNN_ENGINE": conditions.engine},
            stdout=subprocess.PIPE, encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the other one
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                for job in jobs([situation], [provider], cases):
                    line = process.stdout.readline()
                    if not line:
                        raise subprocess.CalledProcessError(process.wait(), process.args)
                    yield Timing(job, **json.loads(line))
            except BaseException:
                end(process)
                raise


def end(process: subprocess.Popen[str]) -> None:
    """End a process that leaves its situation first."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()


def main() -> None:
    """Run in the process of a situation: read a request from the arguments, and print a line of JSON for each job."""
    signal.signal(signal.SIGTERM, leave)
    request = json.loads(sys.argv[1])
    cases = [Case(**{**fields, "sizes": Sizes(*fields["sizes"])}) for fields in request.pop("cases")]
    selected = jobs([request.pop("situation")], [request.pop("provider")], cases)
    for timing in measured(selected, Conditions(**request)):
        fields = asdict(timing)
        del fields["task"]  # the other process knows it
        print(json.dumps(fields), flush=True)


def leave(*_: Any) -> NoReturn:
    """End the process, and every situation that it is in."""
    sys.exit(0)


# ---- Reports -------------------------------------------------------------------------------------------------------


def summary(results: Sequence[Timing]) -> list[str]:
    """Return lines that count and name the losses of each provider, and say what was not measured."""
    reasons = {timing.task.variant: timing.skipped for timing in results if timing.skipped}
    lines = [f"not measured: {variant}: {reason}" for variant, reason in reasons.items()]
    ratios = {timing.task: median(timing.ratios) for timing in results if not timing.skipped}
    for provider in dict.fromkeys(job.provider for job in ratios):
        own = {job: ratio for job, ratio in ratios.items() if job.provider == provider}
        lost = {job: ratio for job, ratio in own.items() if ratio > LOSS_LIMIT}
        lines.append(f"{provider}: more than {LOSS_LIMIT} of one thread's time in {len(lost)} of {len(own)}")
        lines += [f"  {job}: {ratio:.2f}" for job, ratio in lost.items()]
    return lines
