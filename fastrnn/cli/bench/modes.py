"""What ``fastrnn bench`` can measure: engines, precisions, peers, loops, models, limits, threads, memory and more."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from rich.console import Console

from fastrnn import bench as measuring
from fastrnn import engines
from fastrnn.bench import Outcome, Result, charts, counted, loops, memory, models, peers, reports, roofline, situations
from fastrnn.bench.contenders import REFERENCE, EngineContender
from fastrnn.bench.processes import ContenderError, WorkerProcess
from fastrnn.cli.bench import tables
from fastrnn.cli.errors import Failure

__all__ = [
    "MODES", "Engines", "Loops", "Memory", "Mode", "Models", "Peers", "Plan", "Precisions", "Roofline", "Scaling",
    "Situations", "rivals",
]  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The selection and the options of the command line.

    Attributes
    ----------
    selected : list of Task, of `situations.Case`, of `loops.Task`, or of `models.Row`
    threads : list of int
        Their numbers of threads.
    names : list of str
        The engines that the user named; empty if none.
    rounds, seconds, budget
        As for `fastrnn.bench.run`.
    pythons : list of str
        Interpreters in which to look for peers, besides this one.
    situations, providers : list of str
        The situations to measure in, and the providers of threads.
    """

    selected: list[Any]
    threads: list[int]
    names: list[str]
    rounds: int
    seconds: float
    budget: float
    pythons: list[str]
    situations: list[str]
    providers: list[str]

    @property
    def timing(self) -> tuple[int, float, float]:
        return self.rounds, self.seconds, self.budget

    def interpreters(self) -> list[str]:
        """Where to look for other libraries: in those that the user named, then in this one."""
        return list(dict.fromkeys([*self.pythons, sys.executable]))

    def names_or_current(self) -> list[str]:
        """The engines that the user named, or else the one in use."""
        current = engines.current().name
        return self.names or [current if current != REFERENCE else rivals()[0]]

    def one_count(self, option: str, least: int = 1) -> int:
        if len(self.threads) != 1 or self.threads[0] < least:
            at_least = f" of at least {least}" if least > 1 else ""
            got = ", ".join(map(str, self.threads))
            raise Failure(f"--threads: expected one number{at_least} with {option}, got {got}")
        return self.threads[0]

    def one_name(self, option: str) -> str:
        names = self.names_or_current()
        if len(names) != 1:
            raise Failure(f"--engines: expected one with {option}, got {', '.join(names)}")
        return names[0]


def rivals() -> list[str]:
    """The engines that are measured against the reference."""
    return [name for name in engines.available() if name != REFERENCE]


class Mode(Protocol):
    """One way to measure; `results` are always those that `measure` has yielded."""

    @property
    def tasks(self) -> Sequence[Any]:
        """The tasks that are measured; each gives one result, which has it as its `task`."""

    def measure(self) -> Iterator[Any]:
        """Yield results."""

    def report(self, console: Console, results: Sequence[Any], took: str) -> None:
        """Print tables, notes and the summary; `took` says how long it took, and whether it was completed."""

    def content(self, results: Sequence[Any], described: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        """Return what goes into the JSON file."""

    def plot(self, path: str, results: Sequence[Any], described: dict[str, Any]) -> None:
        """Write a chart."""

    def failed(self, results: Sequence[Any]) -> bool:
        """Whether fastrnn broke a promise: of right results, or of little memory."""


class Timed:
    """The base class of modes whose results are `fastrnn.bench.Result`."""

    own = ""  # the name of the base, if it is verified

    def __init__(self, plan: Plan) -> None:
        self.plan, self.tasks = plan, plan.selected

    def plot(self, path: str, results: Sequence[Result], described: dict[str, Any]) -> None:
        """See `Mode.plot`."""
        measuring.plot(path, results, described)

    def failed(self, results: Sequence[Result]) -> bool:
        """See `Mode.failed`."""
        return any(result.wrong for result in results)

    def _report(
        self, console: Console, results: Sequence[Result], table: Any, legend: str, lines: Sequence[str], took: str
    ) -> None:
        tables.print_tables(console, results, table)
        rounds = tables.rounds([result.base_seconds for result in results])
        console.print(f"\n{legend} Rounds: {rounds}. {took}", soft_wrap=True)
        tables.print_notes(console, results, self.own)
        for line in lines:
            console.print(line, soft_wrap=True)


class Engines(Timed):
    """Engines against the NumPy reference."""

    def measure(self) -> Iterator[Result]:
        """See `Mode.measure`."""
        contenders = [EngineContender(name) for name in self.plan.names or rivals()]
        yield from measuring.run(self.tasks, contenders, *self.plan.timing)

    def report(self, console: Console, results: Sequence[Result], took: str) -> None:
        """See `Mode.report`."""
        legend = "ms: medians over rounds. x: reference / engine, median over rounds in turn."
        table = tables.RatioTable("engine", "reference")
        self._report(console, results, table, legend, measuring.summary(results), took)

    def content(self, results: Sequence[Result], described: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        """See `Mode.content`."""
        return measuring.as_json(results, described, settings, measuring.summary(results))


class Precisions(Timed):
    """Frozen layers of fewer bits, against those of float32."""

    base = "float32"

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._engine = plan.one_name("--precision")
        self.tasks = [task for task in plan.selected if task.precision != self.base]
        if not self.tasks:
            raise Failure("--precision: expected inference in bfloat16 or int8, to measure against float32, got none")

    def measure(self) -> Iterator[Result]:
        """See `Mode.measure`."""
        base = EngineContender(self._engine, precision=self.base)
        yield from measuring.run(self.tasks, [EngineContender(self._engine)], *self.plan.timing, base)

    def report(self, console: Console, results: Sequence[Result], took: str) -> None:
        """See `Mode.report`."""
        legend = (
            "ms: medians over rounds. error: the largest of y and the state, beside float64. "
            "x: float32 / fewer bits, median over rounds in turn."
        )
        table = tables.RatioTable("engine", self.base, more=("error", tables.error_text))
        self._report(console, results, table, legend, reports.precision_summary(results), took)

    def content(self, results: Sequence[Result], described: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        """See `Mode.content`."""
        lines = reports.precision_summary(results)
        return {"engine": self._engine, **measuring.as_json(results, described, settings, lines, self.base)}

    def plot(self, path: str, results: Sequence[Result], described: dict[str, Any]) -> None:
        """See `Mode.plot`."""
        measuring.plot(path, results, described, charts.AGAINST_FLOAT32)


class Peers(Timed):
    """fastrnn beside other libraries."""

    own = peers.OWN

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._engine = plan.one_name("--peers")
        self._found: list[peers.ProcessContender] = []
        self._missing: dict[str, str] = {}

    def measure(self) -> Iterator[Result]:
        """See `Mode.measure`."""
        pythons = self.plan.interpreters()
        own = peers.own_contender(self._engine)
        self._found, self._missing = peers.find(pythons, self.tasks[0].threads)
        try:
            if not self._found:
                titles = ", ".join(peer.title for peer in peers.PEERS.values())
                raise Failure(
                    f"--peers: expected {titles} or some of them, got none in {', '.join(pythons)}; "
                    "--peers-python names another interpreter"
                )
            yield from peers.run(self.tasks, own, self._found, *self.plan.timing)
        except ContenderError as error:
            raise Failure(f"--peers: fastrnn's process: {error}") from error
        finally:
            for contender in (own, *self._found):
                contender.close()

    def report(self, console: Console, results: Sequence[Result], took: str) -> None:
        """See `Mode.report`."""
        legend = (
            f"ms: fastrnn ({self._engine}), median over rounds. Under each peer: its time / fastrnn's, "
            f"median over rounds in turn."
        )
        print_libraries(console, self._found, self._missing)
        self._report(console, results, tables.peers_table, legend, [*skipped(results), *peers.summary(results)], took)

    def content(self, results: Sequence[Result], described: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        """See `Mode.content`."""
        libraries = libraries_as_json(self._engine, self._found, self._missing)
        content = measuring.as_json(results, described, settings, peers.summary(results), peers.OWN, "peers")
        return {"libraries": libraries, **content}

    def plot(self, path: str, results: Sequence[Result], described: dict[str, Any]) -> None:
        """See `Mode.plot`."""
        charts.plot_peers(path, results, described)


def print_libraries(console: Console, found: Sequence[WorkerProcess], missing: dict[str, str]) -> None:
    for contender in found:
        console.print(f"{contender.name} {contender.version}: {contender.python}", soft_wrap=True)
    for name, reason in missing.items():
        console.print(f"missing: {name} ({reason})", soft_wrap=True)


def libraries_as_json(engine: str, found: Sequence[WorkerProcess], missing: dict[str, str]) -> dict[str, Any]:
    there = {contender.name: {"version": contender.version, "python": contender.python} for contender in found}
    return {"engine": engine, "found": there, "missing": missing}


def skipped(results: Sequence[Result | models.Result]) -> Iterator[str]:
    """Yield lines that say which peers did not take part in how many tasks, and why."""
    counts: dict[tuple[str, str], int] = {}
    for result in results:
        for key in result.skipped.items():
            counts[key] = counts.get(key, 0) + 1
    for (name, reason), count in counts.items():
        yield f"not measured: {name} in {counted(count, 'task')}: {reason}"


class Loops(Timed):
    """fastrnn's cells beside the loops of PyTorch's users, and beside its plain cells."""

    own = peers.OWN

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._engine = plan.one_name("--loops")
        # A quick look has no time to compile.
        self._names = loops.RIVALS if math.isinf(plan.budget) else (loops.LOOP,)
        self._found: list[peers.ProcessContender] = []
        self._missing: dict[str, str] = {}

    def measure(self) -> Iterator[loops.Result]:
        """See `Mode.measure`."""
        own, plain = loops.own_contenders(self._engine)
        self._found, self._missing = loops.find(self._names, self.plan.interpreters(), self.tasks[0].threads)
        try:
            yield from loops.run(self.tasks, own, plain, self._found, *self.plan.timing)
        except ContenderError as error:
            raise Failure(f"--loops: fastrnn's process: {error}") from error
        finally:
            for contender in (own, plain, *self._found):
                contender.close()

    def report(self, console: Console, results: Sequence[loops.Result], took: str) -> None:
        """See `Mode.report`."""
        legend = (
            f"ms: fastrnn ({self._engine}), median over rounds. loop, compiled: the time of a PyTorch user's loop over "
            "fastrnn's, without and with torch.compile. of plain: fastrnn's time over that of its plain cell. Medians "
            "over rounds in turn. Red: a target is missed. What is random is verified at probability 0."
        )
        print_libraries(console, self._found, self._missing)
        self._report(console, results, tables.loops_table, legend, [*skipped(results), *loops.summary(results)], took)

    def content(
        self, results: Sequence[loops.Result], described: dict[str, Any], settings: dict[str, Any]
    ) -> dict[str, Any]:
        """See `Mode.content`."""
        content = measuring.as_json(results, described, settings, loops.summary(results), self.own, "others")
        for result, entry in zip(results, content["results"], strict=True):
            variant = result.task.variant
            entry |= {"variant": variant.name, "options": dict(result.task.options)}
            entry["targets"] = {"loop": variant.faster, "of plain": variant.dearer}
            entry["missed"] = [outcome.name for outcome in result.outcomes if loops.missed(variant, outcome)]
        return {"libraries": libraries_as_json(self._engine, self._found, self._missing), **content}

    def plot(self, path: str, results: Sequence[Result], described: dict[str, Any]) -> None:
        """There is none: the command refuses before it measures."""
        raise NotImplementedError


class Models:
    """Whole models beside PyTorch and JAX."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.tasks = plan, plan.selected
        self._threads, self._engine = plan.one_count("--models"), plan.one_name("--models")
        self._found: list[WorkerProcess] = []
        self._missing: dict[str, str] = {}

    def measure(self) -> Iterator[models.Result]:
        """See `Mode.measure`."""
        try:
            self._found, self._missing = models.find(self.plan.interpreters(), self._threads, self._engine)
            yield from models.run(self.tasks, self._found, self._threads, *self.plan.timing)
        except ContenderError as error:
            raise Failure(f"--models: fastrnn's process: {error}") from error

    def report(self, console: Console, results: Sequence[models.Result], took: str) -> None:
        """See `Mode.report`."""
        print_libraries(console, self._found, self._missing)
        console.print(tables.models_table(results, f"targets per second, {counted(self._threads, 'thread')}"))
        rounds = tables.rounds([outcome.seconds for result in results for outcome in result.outcomes[:1]])
        console.print(
            f"\nx: PyTorch's time / the contender's, median over rounds in turn. kit: fastrnn's ({self._engine}). "
            "accelerate: PyTorch with fastrnn.torch.accelerate. ~: one round only, or rounds that differ by more than "
            f"a factor of two. Rounds: {rounds}. {took}",
            soft_wrap=True,
        )
        console.print(tables.models_memory_table(results, "peak memory of the process, MiB"))
        console.print(
            "\nmodel: above the size before the model was built; all: in total, with the library. x: the kit's / "
            "PyTorch's, of the model.",
            soft_wrap=True,
        )
        for line in (*skipped(results), *models.summary(results)):
            console.print(line, soft_wrap=True)

    def content(
        self, results: Sequence[models.Result], described: dict[str, Any], settings: dict[str, Any]
    ) -> dict[str, Any]:
        """See `Mode.content`."""
        entries = [
            {
                "row": row.name, "model": row.model, "kind": row.kind, "sizes": dict(row.sizes), "unit": row.unit,
                "targets": result.targets, "threads": self._threads, "skipped": result.skipped,
                "contenders": {
                    outcome.name: {
                        **reports.verification_as_json(outcome.verification), **reports.timing(outcome.seconds),
                        **reports.spread(outcome.ratios),
                        "per_second": result.speed(outcome) if outcome.seconds else None,
                        "memory": asdict(result.memory[outcome.name]) if outcome.name in result.memory else None,
                    }
                    for outcome in result.outcomes
                },
            }
            for result in results
            for row in [result.task]
        ]  # fmt: skip
        return {
            "libraries": libraries_as_json(self._engine, self._found, self._missing), "machine": described,
            "settings": settings, "summary": models.summary(results), "results": entries,
        }  # fmt: skip

    def plot(self, path: str, results: Sequence[models.Result], described: dict[str, Any]) -> None:
        """There is none: the command refuses before it measures."""
        raise NotImplementedError

    def failed(self, results: Sequence[models.Result]) -> bool:
        """See `Mode.failed`."""
        return any(result.wrong for result in results)


class Roofline(Timed):
    """Engines against the limits of the machine."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._floor = roofline.Floor()
        self._rates: dict[tuple[int, str], dict[str, float]] = {}

    def measure(self) -> Iterator[Result]:
        """See `Mode.measure`."""
        for conditions in dict.fromkeys((task.threads, task.precision) for task in self.tasks):
            self._rates[conditions] = self._floor.probe(*conditions).everything()
        contenders = [EngineContender(name) for name in self.plan.names_or_current()]
        yield from measuring.run(self.tasks, contenders, *self.plan.timing, self._floor)

    def report(self, console: Console, results: Sequence[Result], took: str) -> None:
        """See `Mode.report`."""
        for (threads, precision), rates in self._rates.items():
            words = [f"{rates['multiply_add'] / 1e9:.0f} GFLOP/s in registers"]
            if "gemm" in rates:
                words.append(f"{rates['gemm'] / 1e9:.0f} in a product")
            words += [f"{level} {rate / 1e9:.0f}" for level, rate in rates.items() if level not in RATES]
            console.print(f"{precision}, {counted(threads, 'thread')}: {', '.join(words)} GB/s", soft_wrap=True)
        legend = (
            "floor: the least time by the model of roofline.floor_seconds, from limits measured in the same round; "
            "bound: what sets it. share: floor / ms, median over rounds in turn."
        )
        table = tables.RatioTable("engine", "floor", "share", "{:.0%}".format, -1, ("bound", self._bound))
        self._report(console, results, table, legend, roofline.summary(results), took)

    def content(self, results: Sequence[Result], described: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        """See `Mode.content`."""
        content = measuring.as_json(results, described, settings, roofline.summary(results), self._floor.name)
        for result, entry in zip(results, content["results"], strict=True):
            if result.base_seconds:
                entry["limits"] = self._floor.bound(result.task)._asdict()
        rates = [
            {"threads": threads, "precision": precision, "caches": roofline.caches(threads), "rates": rates}
            for (threads, precision), rates in self._rates.items()
        ]
        return {"limits": rates, **content}

    def plot(self, path: str, results: Sequence[Result], described: dict[str, Any]) -> None:
        """See `Mode.plot`."""
        measuring.plot(path, results, described, charts.AGAINST_FLOOR)

    def _bound(self, result: Result, outcome: Outcome) -> str:
        task = result.task
        if not outcome.ratios:
            return ""
        limits = self._floor.bound(task)
        multiplying = task.flops / limits.gemm
        return "product" if roofline.floor_seconds(task, limits) == multiplying else limits.level


RATES = ("multiply_add", "gemm")


class Scaling(Timed):
    """An engine with several numbers of threads, against the first of them."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._engine = plan.one_name("--scaling")
        self._base, *self._others = dict.fromkeys(task.threads for task in plan.selected)
        if not self._others:
            raise Failure(f"--scaling: expected several numbers in --threads, got {self._base}")
        self.tasks = [task for task in plan.selected if task.threads == self._base]

    def measure(self) -> Iterator[Result]:
        """See `Mode.measure`."""
        base, *contenders = (EngineContender(self._engine, n) for n in (self._base, *self._others))
        yield from measuring.run(self.tasks, contenders, *self.plan.timing, base)

    def report(self, console: Console, results: Sequence[Result], took: str) -> None:
        """See `Mode.report`."""
        base = counted(self._base, "thread")
        legend = f"ms: {self._engine}, medians over rounds. x: time with {base} / with more, in turn."
        table = tables.RatioTable("threads", base, loss=1 / reports.SLOWER_LIMIT)
        self._report(console, results, table, legend, reports.scaling_summary(results), took)

    def content(self, results: Sequence[Result], described: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        """See `Mode.content`."""
        lines, base = reports.scaling_summary(results), counted(self._base, "thread")
        return {"engine": self._engine, **measuring.as_json(results, described, settings, lines, base, "others")}

    def plot(self, path: str, results: Sequence[Result], described: dict[str, Any]) -> None:
        """See `Mode.plot`."""
        base = counted(self._base, "thread")
        look = charts.Look(f"({self._engine}) with several threads", f"times as fast as {base} (log scale)")
        measuring.plot(path, results, described, replace(look, loss=1 / reports.SLOWER_LIMIT))


class Situations:
    """All threads against one, where others want the cores, too."""

    def __init__(self, plan: Plan) -> None:
        threads = plan.one_count("--situations", least=2)
        if not plan.providers:
            raise Failure("--situations: expected a build with threads, got one without")
        self._selected = plan.situations, plan.providers, plan.selected
        self._conditions = situations.Conditions(plan.one_name("--situations"), threads, *plan.timing)
        self.tasks = situations.jobs(*self._selected)

    def measure(self) -> Iterator[situations.Timing]:
        """See `Mode.measure`."""
        yield from situations.run(*self._selected, self._conditions)

    def report(self, console: Console, results: Sequence[situations.Timing], took: str) -> None:
        """See `Mode.report`."""
        conditions = self._conditions
        title = f"LSTM, float32, {conditions.engine}: time with {conditions.threads} threads / with one"
        console.print(tables.situations_table(results, title))
        console.print(
            "\nHeadings: case, kind and T,B,H, where I = H; bi512 has two directions. Numbers: medians over rounds in "
            f"turn. !: a loss, above {situations.LOSS_LIMIT}. ~: one round only, or rounds that differ by more than a "
            f"factor of two. {took}",
            soft_wrap=True,
        )
        for line in situations.summary(results):
            console.print(line, soft_wrap=True)

    def content(
        self, results: Sequence[situations.Timing], described: dict[str, Any], settings: dict[str, Any]
    ) -> dict[str, Any]:
        """See `Mode.content`."""
        entries = [
            {
                "situation": job.situation, "threading": job.provider, "variant": job.variant,
                "case": job.case.name, "kind": job.case.kind, **job.case.sizes._asdict(),
                "bidirectional": job.case.bidirectional,
                "one thread": reports.timing(timing.one_thread),
                "all threads": {**reports.timing(timing.all_threads), **reports.spread(timing.ratios)},
                "skipped": timing.skipped,
            }
            for timing in results
            for job in [timing.task]
        ]  # fmt: skip
        return {
            "engine": self._conditions.engine, "threads": self._conditions.threads, "machine": described,
            "settings": settings, "summary": situations.summary(results), "results": entries,
        }  # fmt: skip

    def plot(self, path: str, results: Sequence[situations.Timing], described: dict[str, Any]) -> None:
        """There is none: the command refuses before it measures."""
        raise NotImplementedError

    def failed(self, results: Sequence[situations.Timing]) -> bool:
        """A loss of time is reported, but breaks no promise of results or memory."""
        return False


class Memory:
    """The memory that calls and tapes take."""

    def __init__(self, plan: Plan) -> None:
        if not memory.available():
            raise Failure(
                "--memory: expected Linux's /proc/self/clear_refs, to measure peaks with, got a system without"
            )
        self.tasks, self._engine = plan.selected, plan.one_name("--memory")

    def measure(self) -> Iterator[memory.Usage]:
        """See `Mode.measure`."""
        yield from memory.run(self.tasks, self._engine)

    def report(self, console: Console, results: Sequence[memory.Usage], took: str) -> None:
        """See `Mode.report`."""
        console.print(tables.usage_table(results))
        console.print(
            "\nscratch: growth of the peak resident size during a call, beyond what it returned; packed weights are "
            'there before in inference. tape: arrays that only it holds. states: the same with keep="states", where '
            "scratch includes what is recorded again. frozen: parameters and packed weights of a "
            f"frozen layer; share: those, beside its dtype's. {took}",
            soft_wrap=True,
        )
        for line in memory.summary(results):
            console.print(line, soft_wrap=True)

    def content(
        self, results: Sequence[memory.Usage], described: dict[str, Any], settings: dict[str, Any]
    ) -> dict[str, Any]:
        """See `Mode.content`."""
        entries = [
            {
                **asdict(usage.task), "dtype": usage.task.dtype, "sizes": usage.task.sizes._asdict(),
                "engine": usage.engine, "scratch": usage.scratch, "tape": usage.tape,
                "tape_limit": memory.tape_limit(usage.task), "weights": usage.weights,
                "full_weights": usage.full_weights, "states_scratch": usage.states_scratch,
                "states_tape": usage.states_tape, "broken": usage.broken,
            }
            for usage in results
        ]  # fmt: skip
        summary = memory.summary(results)
        return {"machine": described, "settings": settings, "summary": summary, "results": entries}

    def plot(self, path: str, results: Sequence[memory.Usage], described: dict[str, Any]) -> None:
        """There is none: the command refuses before it measures."""
        raise NotImplementedError

    def failed(self, results: Sequence[memory.Usage]) -> bool:
        """See `Mode.failed`."""
        return any(usage.broken for usage in results)


MODES: dict[str | None, Callable[[Plan], Mode]] = {
    None: Engines,
    "precision": Precisions,
    "peers": Peers,
    "loops": Loops,
    "models": Models,
    "roofline": Roofline,
    "scaling": Scaling,
    "situations": Situations,
    "memory": Memory,
}
