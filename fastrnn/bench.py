"""Engines against the reference: each task is verified, then timed in turn. Behind ``fastrnn bench`` and benchmarks/.

A *task* is one cell, kind, case, dtype and number of threads. A *contender* loads a task and gives a *runner*, which
computes results and measures times. The reference is one contender, each engine another; a library in a process of
its own can be one as well. Machines drift by a factor of two within minutes, so contenders are measured in turn
(A B A B ...), and the claim is the median over rounds of the ratio within a round, not a ratio of two times.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import time
import timeit
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy
from numpy.typing import NDArray

from fastrnn import blas, engines
from fastrnn._core import native
from fastrnn.layers import GRU, LSTM, RNN
from fastrnn.threads import num_threads
from fastrnn.version import __version__

__all__ = [
    "CASES", "CELLS", "DTYPES", "KINDS", "REFERENCE", "Contender", "EngineContender", "Outcome", "Result", "Runner",
    "Sizes", "Task", "Verification", "as_json", "expected", "load_average", "machine", "plot", "quick_tasks", "run",
    "summary", "tasks", "verify",
]  # fmt: skip


# ---- What is measured ----------------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """Time steps, batch, input and hidden size."""

    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


CASES = {
    "step64": Sizes(1, 1, 64, 64),  # T = 1: a step of a stream
    "step256": Sizes(1, 1, 256, 256),
    "lat64": Sizes(100, 1, 64, 64),  # one sequence: latency
    "lat128": Sizes(100, 1, 128, 128),
    "lat256": Sizes(100, 1, 256, 256),
    "lat512": Sizes(100, 1, 512, 512),
    "lat1024": Sizes(50, 1, 1024, 1024),
    "odd": Sizes(37, 5, 17, 83),  # no size is a multiple of a vector's
    "b4h128": Sizes(100, 4, 128, 128),
    "b8h256": Sizes(100, 8, 256, 256),
    "b16h128": Sizes(100, 16, 128, 128),
    "b32h128": Sizes(50, 32, 128, 128),
    "t100b32h128": Sizes(100, 32, 128, 128),
    "b20h650": Sizes(35, 20, 650, 650),
    "b32h256": Sizes(100, 32, 256, 256),
    "b256h64": Sizes(100, 256, 64, 64),
    "b64h256": Sizes(50, 64, 256, 256),
    "b64h512": Sizes(50, 64, 512, 512),
    "b64h1024": Sizes(25, 64, 1024, 1024),
}
QUICK_CASES = ("step64", "lat64", "odd", "lat256", "b8h256", "t100b32h128")
HEADLINE_CASE = "t100b32h128"  # what the summary quotes
HEADLINE_H = 64  # the summary counts cases with at least so many hidden units

CELLS: dict[str, type[RNN] | type[LSTM] | type[GRU]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
KINDS = ("inference", "training")
DTYPES = ("float32", "float64")
REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to compute.

    Attributes
    ----------
    cell : str
        A key of `CELLS`: one layer, one direction, with biases and the cell's default options.
    kind : str
        "inference": a frozen layer's call, or a step of its stream where T is 1. "training": a layer's forward and
        backward, with gradients in x, state and parameters. Both start from a given state.
    case : str
        A key of `CASES`.
    dtype : str
        "float32" or "float64".
    threads : int
        Granted to the contender; one that thinks the work too small may use fewer.
    sizes : Sizes
        Those of the case, but for verification, which may take fewer steps.
    """

    cell: str
    kind: str
    case: str
    dtype: str
    threads: int
    sizes: Sizes

    @property
    def flops(self) -> int:
        """Operations in matrix products: 2*T*B*G*H*(I + O) forward, and twice as many again for gradients."""
        T, B, I, H = self.sizes
        gates = {"rnn": 1, "gru": 3, "lstm": 4}[self.cell]
        return 2 * T * B * gates * H * (I + H) * (3 if self.kind == "training" else 1)

    def __str__(self) -> str:
        return f"{self.cell} {self.kind} {self.case} {self.dtype} {counted(self.threads, 'thread')}"


def tasks(
    cells: Iterable[str], kinds: Iterable[str], cases: Iterable[str], dtypes: Iterable[str], threads: Iterable[int]
) -> list[Task]:
    """Return all combinations, but for training in cases of a single step, which are about streams."""
    combinations = itertools.product(threads, dtypes, cells, kinds, cases)
    return [
        Task(cell, kind, case, dtype, n, CASES[case])
        for n, dtype, cell, kind, case in combinations
        if kind == "inference" or CASES[case].T > 1
    ]


def quick_tasks(threads: Iterable[int]) -> list[Task]:
    """Return few tasks that stand for all: each cell in float32, and the headline case of an LSTM in float64."""
    threads = list(threads)
    return [
        *tasks(CELLS, KINDS, QUICK_CASES, ["float32"], threads),
        *tasks(["lstm"], KINDS, [HEADLINE_CASE], ["float64"], threads),
    ]


# ---- Contenders ----------------------------------------------------------------------------------------------------

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
    name : str
        One of `fastrnn.engines.available()`.
    """

    name: str

    def load(self, task: Task) -> EngineRunner:
        """See `Contender.load`."""
        return EngineRunner(self.name, task.threads, task.kind, Problem.draw(task))


class EngineRunner:
    """An engine with a problem to solve."""

    def __init__(self, engine: str, threads: int, kind: str, problem: Problem) -> None:
        self._engine, self._threads = engine, threads
        with self._selected():
            solvers = {"training": solve_training, "inference": solve_step if len(problem.x) == 1 else solve_inference}
            self._run, self._collect = solvers[kind](problem)

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
    """A layer, what it is given, and the gradients of a loss in what it gives."""

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
            return tuple(normal(1, B, H) for _ in ("h", "c")[: 2 if task.cell == "lstm" else 1])

        layer = CELLS[task.cell](I, H, dtype=task.dtype, rng=rng)
        return cls(layer, normal(T, B, I), state(), normal(T, B, H), state())

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
    """A state as layers take it: (h, c) or h."""
    return parts if len(parts) == 2 else parts[0]


def named(state: Any, *names: str) -> Results:
    return dict(zip(names, state if isinstance(state, tuple) else (state,), strict=False))


# ---- Verification --------------------------------------------------------------------------------------------------

# Largest scaled errors, max|a - b| / max(1, max|b|), that rounding can explain: a pre-activation sums up to 2,048
# products, a gradient in a weight up to 25,600 rows. At least ten times what right engines show; a bug shows more.
TOLERANCE = {"float32": {"value": 2e-5, "gradient": 1e-4}, "float64": {"value": 4e-14, "gradient": 2e-13}}
# The float64 reference takes about half a second for so many operations. Beyond it, fewer steps are verified.
VERIFIED_FLOPS = 2 * 10**10


@dataclass(frozen=True, slots=True)
class Verification:
    """How far a contender's results are from the float64 reference's.

    Attributes
    ----------
    T : int
        How many time steps were verified.
    errors : dict of str to float
        Scaled error of each result; infinite where a result is missing, misshapen or not finite.
    wrong : tuple of str
        The results whose errors are beyond the tolerance.
    """

    T: int
    errors: dict[str, float]
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        if not self.wrong:
            return f"largest scaled error {max(self.errors.values()):.1e}"
        return "scaled error " + ", ".join(f"{self.errors[name]:.1e} in {name}" for name in self.wrong)


def verified_task(task: Task) -> Task:
    """The task, or with fewer steps one that the float64 reference can do in about half a second."""
    T = max(2, task.sizes.T * VERIFIED_FLOPS // task.flops)
    return replace(task, sizes=task.sizes._replace(T=min(T, task.sizes.T)))


def expected(task: Task) -> Results:
    """Return what `verify` expects of a task: the reference's results, computed in float64 from the task's numbers."""
    task = verified_task(task)
    return EngineRunner(REFERENCE, task.threads, task.kind, Problem.draw(task).in_float64()).results()


def verify(contender: Contender, task: Task, expectation: Results) -> Verification:
    """Compare a contender's results with those of the float64 reference.

    Parameters
    ----------
    contender : Contender
    task : Task
        A task with very many operations is verified on fewer time steps.
    expectation : dict of str to ndarray
        From `expected` of the same task.

    Returns
    -------
    Verification
    """
    task = verified_task(task)
    actual = contender.load(task).results()
    errors = {name: scaled_error(actual.get(name), value) for name, value in expectation.items()}
    tolerance = TOLERANCE[task.dtype]
    wrong = [
        name for name, error in errors.items() if error > tolerance["gradient" if name.startswith("grad") else "value"]
    ]
    return Verification(task.sizes.T, errors, tuple(wrong))


def scaled_error(actual: NDArray | None, expectation: NDArray) -> float:
    if actual is None or actual.shape != expectation.shape or not np.isfinite(actual).all():
        return math.inf
    return float(np.abs(actual - expectation).max() / max(1, np.abs(expectation).max()))


# ---- Measurement ---------------------------------------------------------------------------------------------------

LONG_SECONDS = 0.1  # a run that takes longer warms itself up
SAMPLE_SECONDS = 2e-4  # runs shorter than this are timed several at once: the clock and its call take 0.1 us


def median_seconds(call: Callable[[], Any], seconds: float) -> float:
    """Call for about so many seconds after a warm-up; the median time of a call."""
    timer = timeit.Timer(call)  # it keeps the garbage collector out
    once = timer.timeit(1)
    if once > max(seconds, LONG_SECONDS):
        return once
    if once < 10 * SAMPLE_SECONDS:  # the first call of many is not like the others
        once = min(timer.repeat(5, 1))
    number = max(1, round(SAMPLE_SECONDS / max(once, 1e-9)))
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        samples.append(timer.timeit(number) / number)
    return median(samples)


def wait_until_idle(at_most: float = 0.5, step: float = 0.005) -> None:
    """Wait until no thread of this process works.

    The threads of an OpenBLAS spin for 0.1 s after their work, which would halve the speed of who comes next.
    """
    end = time.perf_counter() + at_most
    while time.perf_counter() < end:
        begin, busy = time.perf_counter(), time.process_time()
        time.sleep(step)
        if time.process_time() - busy < 0.1 * (time.perf_counter() - begin):
            return


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


# ---- Reports -------------------------------------------------------------------------------------------------------


def summary(results: Sequence[Result]) -> list[str]:
    """Return, for each contender, whether it was ahead of the reference where H >= 64, and its headline ratios."""
    names = dict.fromkeys(outcome.name for result in results for outcome in result.outcomes)
    pairs = {name: [(r.task, o) for r in results for o in r.outcomes if o.name == name] for name in names}
    return [line for name in names for line in (*summary_of_large(name, pairs[name]), *headlines(name, pairs[name]))]


def summary_of_large(name: str, pairs: list[tuple[Task, Outcome]]) -> Iterator[str]:
    large = [(task, outcome) for task, outcome in pairs if task.sizes.H >= HEADLINE_H]
    ratios = {task: median(outcome.ratios) for task, outcome in large if outcome.ratios}
    behind = [f"{task} ({ratio:.2f} x)" for task, ratio in ratios.items() if ratio <= 1]
    wrong = [f"{task}" for task, outcome in large if outcome.verification.wrong]
    if behind or wrong:
        yield "; ".join(
            [f"{name} was ahead in {len(ratios) - len(behind)} of {len(large)} cases of H >= {HEADLINE_H}"]
            + ([f"behind in {', '.join(behind)}"] if behind else [])
            + ([f"wrong in {', '.join(wrong)}"] if wrong else [])
        )
    elif large:
        least = min(ratios, key=lambda task: ratios[task])
        every = f"{name} was ahead in every case of H >= {HEADLINE_H} ({len(large)} of {len(large)})"
        yield f"{every}, by {ratios[least]:.1f} x at least ({least})"


def headlines(name: str, pairs: list[tuple[Task, Outcome]]) -> Iterator[str]:
    T, B, I, H = CASES[HEADLINE_CASE]
    ratios: dict[str, list[str]] = {}
    for task, outcome in pairs:
        if task.case == HEADLINE_CASE and outcome.ratios:
            conditions = f"{task.dtype}, {counted(task.threads, 'thread')}"
            ratios.setdefault(conditions, []).append(f"{task.cell} {task.kind} {median(outcome.ratios):.1f} x")
    for conditions, words in ratios.items():
        yield f"{name} at T={T}, B={B}, I={I}, H={H}, {conditions}: {', '.join(words)}"


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def machine() -> dict[str, Any]:
    """Return what a reader of figures must know: processor, versions, instruction set, BLAS, load and date."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": load_average(),
        "fastrnn": __version__,
        "isa": native.isa_selected(),
        "blas": blas.name(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "reference_threads_controlled": blas.numpy_control() is not None,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def load_average() -> float | None:
    """Return how many threads wanted a core in the last minute, or None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # only on Linux
        pass
    return platform.processor() or platform.machine()


def as_json(results: Sequence[Result], described: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return all numbers as what `json.dump` takes; times are in seconds.

    Parameters
    ----------
    results : sequence of Result
    described : dict
        From `machine`, called before the measurements.
    settings : dict
        How it was measured, in the caller's words.

    Returns
    -------
    dict
        "machine", "settings", "summary", and "results": for each task its sizes, the reference's and each contender's
        median and times by round, and each contender's ratios by round, their median and verification.
    """
    return {
        "machine": described,
        "settings": settings,
        "summary": summary(results),
        "results": [
            {
                "cell": task.cell, "kind": task.kind, "case": task.case, "dtype": task.dtype, "threads": task.threads,
                **task.sizes._asdict(),
                "flops": task.flops,
                REFERENCE: timing(result.reference_seconds),
                "engines": {outcome.name: outcome_as_json(result, outcome) for outcome in result.outcomes},
            }
            for result in results
            for task in [result.task]
        ],
    }  # fmt: skip


def timing(rounds: list[float]) -> dict[str, Any]:
    return {"seconds": median(rounds) if rounds else None, "rounds": rounds}


def outcome_as_json(result: Result, outcome: Outcome) -> dict[str, Any]:
    verification = outcome.verification
    # JSON knows no infinity.
    errors = {name: error if math.isfinite(error) else None for name, error in verification.errors.items()}
    return {
        "verified": not verification.wrong,
        "verified_T": verification.T,
        "errors": errors,
        **timing(outcome.seconds),
        "gflops": result.gflops(outcome) if outcome.seconds else None,
        "ratio": median(outcome.ratios) if outcome.ratios else None,
        "ratios": outcome.ratios,
    }


PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def plot(path: str | os.PathLike[str], results: Sequence[Result], described: dict[str, Any]) -> None:
    """Draw the ratios as bars, grouped by case, a panel for each kind of task.

    Parameters
    ----------
    path : path-like
        Ends in .png, .svg or .pdf, which selects the format.
    results : sequence of Result
    described : dict
        From `machine`.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    OSError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    bars = [Bar(result.task, outcome) for result in results for outcome in result.outcomes]
    kinds = [kind for kind in KINDS if any(bar.task.kind == kind for bar in bars)]
    # A hatch for each engine, dtype and number of threads; labels name those of them that vary.
    hatches = dict(zip(dict.fromkeys(bar.variant for bar in bars), itertools.cycle(("", "////", "....", "xxxx", "--"))))
    varying = [k for k, values in enumerate(zip(*hatches, strict=True)) if len(set(values)) > 1]
    shared = [word for k, word in enumerate(bars[0].variant) if k not in varying]

    rows = max(sum(bar.task.kind == kind for bar in bars) + len({bar.task.case for bar in bars}) for kind in kinds)
    figure = Figure(figsize=(5.5 * len(kinds) + 1, 2.2 + 0.17 * rows), layout="constrained")
    conditions = ", ".join([described["cpu"], described["isa"], *shared, described["date"][:10]])
    figure.suptitle(f"fastrnn {described['fastrnn']} against its NumPy reference\n{conditions}", fontsize="medium")
    legend: dict[str, Any] = {}
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        y, ticks = 0, {}
        for case, sizes in CASES.items():
            group = [bar for bar in bars if (bar.task.kind, bar.task.case) == (kind, case)]
            for bar in group:
                label = " ".join([bar.task.cell, *(bar.variant[k] for k in varying)])
                legend.setdefault(label, draw_bar(axes, y, bar, hatches[bar.variant]))
                y += 1
            if group:
                ticks[y - (len(group) + 1) / 2] = f"{case} ({sizes})"
                y += 1
        axes.set_title(kind, fontsize="medium", fontweight="bold")
        axes.set_yticks(list(ticks), list(ticks.values()), fontsize="small")
        axes.set_ylim(y - 1, -1)
        set_ratio_axis(axes, 0.9 * min([1, *(bar.least for bar in bars)]), 1.6 * max([2, *(bar.most for bar in bars)]))
    figure.axes[0].set_ylabel("case (T, B, I, H)", fontsize="small")
    legend["least to most of the rounds"] = figure.axes[0].plot([], [], color="black", linewidth=0.8)[0]
    columns = 5 if len(kinds) > 1 else 2
    figure.legend(
        legend.values(), legend.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize="small"
    )
    figure.savefig(path, dpi=150)


class Bar(NamedTuple):
    """One contender's ratio in one task; 1 where it was wrong and so was not timed."""

    task: Task
    outcome: Outcome

    @property
    def variant(self) -> tuple[str, str, str]:
        return self.outcome.name, self.task.dtype, counted(self.task.threads, "thread")

    @property
    def ratio(self) -> float:
        return median(self.outcome.ratios or [1])

    @property
    def least(self) -> float:
        return min(self.outcome.ratios, default=1)

    @property
    def most(self) -> float:
        return max(self.outcome.ratios, default=1)


CELL_COLOURS = dict(zip(CELLS, ("#4477aa", "#ee9944", "#228833"), strict=True))


def draw_bar(axes: Any, y: int, bar: Bar, hatch: str) -> Any:
    """Draw a bar from 1 to the ratio, a line over the rounds, and the number, which is red if it is no gain."""
    drawn = axes.barh(
        y, bar.ratio - 1, left=1, height=0.9, color=CELL_COLOURS[bar.task.cell], hatch=hatch, edgecolor="white",
        linewidth=0,
    )  # fmt: skip
    axes.plot([bar.least, bar.most], [y, y], color="black", linewidth=0.8)
    colour, weight = ("black", "normal") if bar.ratio > 1 else ("red", "bold")
    text = f"{bar.ratio:.3g}" if bar.outcome.ratios else "wrong results"
    axes.annotate(
        text, (max(bar.most, 1), y), (3, 0), textcoords="offset points", va="center", fontsize=7, color=colour,
        fontweight=weight,
    )  # fmt: skip
    return drawn


def set_ratio_axis(axes: Any, least: float, most: float) -> None:
    """Make x a logarithmic axis of ratios."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(least, most)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most / least < 1000 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("times as fast as the reference (log scale)", fontsize="small")
    axes.tick_params(axis="x", labelsize="small")
    axes.tick_params(axis="y", length=0)
    axes.axvline(1, color="black", linewidth=1)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
