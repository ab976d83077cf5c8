"""``fastrnn bench``: engines against the NumPy reference, verified and then timed in turn."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fastrnn import bench as measuring
from fastrnn import engines, get_num_threads
from fastrnn.bench import CASES, CELLS, DTYPES, KINDS, REFERENCE, Outcome, Result
from fastrnn.cli.errors import Failure
from fastrnn.threads import MAX_THREADS

__all__ = ["bench"]

QUICK_SECONDS = 45.0  # what --quick grants itself, so that it ends within a minute on a machine that has other work
WIDTH = 100  # of lines where there is no terminal


class CommaSeparated(click.ParamType):
    """One or more values with commas between them, each converted and checked by `convert_one`."""

    name = "names"

    def __init__(self, expected: Callable[[], str], convert_one: Callable[[str], Any]) -> None:
        self.expected, self.convert_one = expected, convert_one

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        """Return the values without repetitions; see `click.ParamType.convert`."""
        found = []
        for word in str(value).split(","):
            try:
                found.append(self.convert_one(word.strip()))
            except ValueError:
                self.fail(f"expected {self.expected()}, separated by commas, got {word.strip()!r}", param, ctx)
        return list(dict.fromkeys(found))


def one_of(names: Callable[[], Sequence[str]]) -> CommaSeparated:
    def convert(word: str) -> str:
        if word not in names():
            raise ValueError
        return word

    return CommaSeparated(lambda: f"one or more of {', '.join(names())}", convert)


def thread_count(word: str) -> int:
    if not 1 <= int(word) <= MAX_THREADS:
        raise ValueError
    return int(word)


def rivals() -> list[str]:
    """The engines that are measured against the reference."""
    return [name for name in engines.available() if name != REFERENCE]


@click.command()
@click.option("--cells", type=one_of(lambda: list(CELLS)), help="Of rnn, lstm, gru. [default: all]")
@click.option("--kinds", type=one_of(lambda: KINDS), help="Of inference, training. [default: both]")
@click.option("--cases", type=one_of(lambda: list(CASES)), help=f"Of {', '.join(CASES)}. [default: all]")
@click.option("--dtypes", type=one_of(lambda: DTYPES), help="Of float32, float64. [default: float32]")
@click.option("--engines", "names", type=one_of(rivals), help="[default: all but the reference]")
@click.option(
    "--threads", type=CommaSeparated(lambda: f"integers from 1 to {MAX_THREADS}", thread_count),
    help="Numbers of threads. [default: what fastrnn would use]",
)  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Measurements of each.")
@click.option(
    "--seconds", type=click.FloatRange(0, 3600), default=0.1, show_default=True, help="How long a measurement takes."
)
@click.option("--quick", is_flag=True, help="A choice of tasks, and fewer rounds where needed, to end in a minute.")
@click.option("--json", "json_path", type=click.Path(), help="Write all numbers to this file.")
@click.option("--plot", "plot_path", type=click.Path(), help="Write a chart to this file: .png, .svg or .pdf.")
def bench(
    cells: list[str] | None, kinds: list[str] | None, cases: list[str] | None, dtypes: list[str] | None,
    names: list[str] | None, threads: list[int] | None, rounds: int, seconds: float, quick: bool,
    json_path: str | None, plot_path: str | None,
) -> None:  # fmt: skip
    """Measure engines against the NumPy reference.

    Each case is verified against the reference in float64, then engine and reference are timed in turn; "x" is how
    many times as fast as the reference the engine was, the median over the rounds. The exit code is 1 if an engine
    computed something wrong.
    """
    if json_path is not None:
        check_writable("--json", json_path)
    if plot_path is not None:
        check_plot(plot_path)
    threads = threads or [get_num_threads()]
    if quick:
        selected = [
            task
            for task in measuring.quick_tasks(threads)
            if task.cell in (cells or CELLS) and task.kind in (kinds or KINDS)
            and task.case in (cases or CASES) and task.dtype in (dtypes or DTYPES)
        ]  # fmt: skip
    else:
        selected = measuring.tasks(cells or CELLS, kinds or KINDS, cases or CASES, dtypes or ["float32"], threads)
    if not selected:
        raise Failure("--quick, --kinds, --cases: expected something to measure, got a selection without any task")

    described = measuring.machine()
    contenders = [measuring.EngineContender(name) for name in names or rivals()]
    results: list[Result] = []
    begin = time.perf_counter()
    try:
        with progress_bar() as progress:
            bar = progress.add_task("", total=len(selected))
            budget = QUICK_SECONDS if quick else math.inf
            for result in measuring.run(selected, contenders, rounds, seconds, budget):
                results.append(result)
                progress.update(bar, advance=1, description=f"{result.task}")
    finally:  # also what an interrupt or an error leaves
        settings = {
            "rounds": rounds, "seconds": seconds, "quick": quick, "complete": len(results) == len(selected),
            "duration": round(time.perf_counter() - begin, 1), "load_after": measuring.load_average(),
        }  # fmt: skip
        if results:
            report(results, described, settings)
            write(json_path, plot_path, results, described, settings)
    if any(outcome.verification.wrong for result in results for outcome in result.outcomes):
        raise click.exceptions.Exit(1)


def progress_bar() -> Progress:
    console = Console(stderr=True, highlight=False)
    return Progress(
        BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), TextColumn("{task.description}"),
        console=console, disable=not console.is_terminal, transient=True,
    )  # fmt: skip


def report(results: Sequence[Result], described: dict[str, Any], settings: dict[str, Any]) -> None:
    """Print the machine, a table for each dtype and number of threads, what went wrong, and the summary."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(
        f"{described['cpu']}, {measuring.counted(described['cores'], 'core')}, load {described['load']} before, "
        f"{settings['load_after']} after; "
        f"fastrnn {described['fastrnn']}, {described['isa']}; numpy {described['numpy']}, scipy {described['scipy']}",
        soft_wrap=True,
    )
    for conditions in dict.fromkeys((result.task.dtype, result.task.threads) for result in results):
        part = [result for result in results if (result.task.dtype, result.task.threads) == conditions]
        console.print(table_of(part, f"{conditions[0]}, {measuring.counted(conditions[1], 'thread')}"))
    if any(outcome.uncertain for result in results for outcome in result.outcomes):
        console.print("\n~: uncertain: one round only, or rounds that differ by more than a factor of two.")
    done = sorted({len(result.reference_seconds) for result in results})
    console.print(
        f"\nms: medians over rounds. x: reference / engine, median over rounds in turn. "
        f"Rounds: {done[0]}{f' to {done[-1]}' if len(done) > 1 else ''}. {settings['duration']:.0f} s"
        f"{'' if settings['complete'] else ', not completed'}.",
        soft_wrap=True,
    )
    for result in results:
        for outcome in result.outcomes:
            verification = outcome.verification
            if verification.wrong:
                console.print(f"[bold red]wrong[/]: {outcome.name}, {result.task}: {verification}", soft_wrap=True)
            if verification.T < result.task.sizes.T:
                steps = f"{verification.T} of {result.task.sizes.T} time steps"
                console.print(f"verified on {steps}: {outcome.name}, {result.task}", soft_wrap=True)
    for line in measuring.summary(results):
        console.print(line, soft_wrap=True)


def table_of(results: Sequence[Result], title: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for heading in ("cell", "kind", "case", "T,B,I,H", "engine"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ms", "GFLOP\n/s", "reference\nms", "x"):  # in all, 80 columns
        table.add_column(heading, justify="right", no_wrap=True)
    group = None
    for result in results:
        task = result.task
        if group not in (None, (task.cell, task.kind)):
            table.add_section()
        group = task.cell, task.kind
        for outcome in result.outcomes:
            table.add_row(task.cell, task.kind, task.case, str(task.sizes), outcome.name, *figures(result, outcome))
    return table


def figures(result: Result, outcome: Outcome) -> list[str]:
    """The cells of a table's row that hold what came out."""
    if not outcome.ratios:
        return ["", "", "", "[bold red]wrong[/]"]
    ratio = median(outcome.ratios)
    return [
        milliseconds(median(outcome.seconds)),
        f"{result.gflops(outcome):.1f}",
        milliseconds(median(result.reference_seconds)),
        (f"{ratio:.2f}" if ratio > 1 else f"[bold red]{ratio:.2f}[/]") + ("~" if outcome.uncertain else ""),
    ]


def milliseconds(seconds: float) -> str:
    """About three digits, and no more than six characters."""
    ms = seconds * 1e3
    return f"{ms:.{4 if ms < 1 else 2 if ms < 100 else 0}f}"


def write(
    json_path: str | None, plot_path: str | None, results: Sequence[Result], described: dict[str, Any],
    settings: dict[str, Any],
) -> None:  # fmt: skip
    """Write the files that were asked for."""
    path = json_path
    try:
        if json_path is not None:
            content = measuring.as_json(results, described, settings)
            Path(json_path).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        path = plot_path
        if plot_path is not None:
            measuring.plot(plot_path, results, described)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from error


def check_plot(path: str) -> None:
    """Fail now, not after minutes of measuring, if a chart cannot be written at `path`."""
    if not path.lower().endswith(measuring.PLOT_SUFFIXES):
        raise Failure(f"--plot: expected a name that ends in {', '.join(measuring.PLOT_SUFFIXES)}, got {path!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise Failure('--plot: needs matplotlib: pip install "fastrnn[bench]"')
    check_writable("--plot", path)


def check_writable(option: str, path: str) -> None:
    """Fail now, not after minutes of measuring, if a file cannot be written at `path`; leave it as it is."""
    try:
        if os.path.exists(path):
            open(path, "ab").close()
        else:
            with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))):
                pass
    except OSError as error:
        raise Failure(f"{option}: {path}: cannot write ({error.strerror or error})") from error
