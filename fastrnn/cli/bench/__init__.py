"""``fastrnn bench``: engines against NumPy, verified and timed in turn; precisions, peers, limits, memory and more."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fastrnn import bench as measuring
from fastrnn import get_num_threads
from fastrnn._core import native
from fastrnn.bench import CASES, CELLS, DTYPES, KINDS, loops, models, situations
from fastrnn.cli.bench.modes import MODES, Mode, Plan, rivals
from fastrnn.cli.bench.options import check_plot, check_writable, interpreters, one_of, thread_counts
from fastrnn.cli.errors import Failure
from fastrnn.cli.ranges import FiniteRange
from fastrnn.engines.precision import PRECISIONS

__all__ = ["bench"]

QUICK_SECONDS = 45.0  # the budget of --quick: it then ends within a minute even on a busy machine
WIDTH = 100  # of lines, if the output is not a terminal
# What a mode has none of, and --plot needs.
NOTHING_TO_DRAW = {
    "loops": "a mode with a chart", "memory": "times to draw", "models": "a mode with a chart",
    "situations": "a mode with a chart",
}  # fmt: skip
# Modes with cases of their own: all, and those of --quick.
OWN_CASES: dict[str | None, tuple[Sequence[Any], Sequence[Any]]] = {
    "situations": (situations.CASES, situations.QUICK_CASES),
    "models": (models.ROWS, models.QUICK_ROWS),
}


def names_of_cases(mode: str | None = None) -> list[str]:
    """Return the names of a mode's cases."""
    if mode == "loops":
        return list(loops.CASES)
    return list(dict.fromkeys(case.name for case in OWN_CASES[mode][0])) if mode in OWN_CASES else list(CASES)


def names_of_all_cases() -> list[str]:
    return list(dict.fromkeys(name for mode in (None, "loops", *OWN_CASES) for name in names_of_cases(mode)))


def names_of_cells(mode: str | None = None) -> list[str]:
    return list(loops.VARIANTS if mode == "loops" else CELLS)


@click.command()
@click.option("--peers", is_flag=True, help="Measure other libraries beside fastrnn.")
@click.option("--loops", is_flag=True, help="Measure cells that PyTorch has only as loops, beside such loops.")
@click.option("--models", is_flag=True, help="Measure whole models beside PyTorch and JAX.")
@click.option("--roofline", is_flag=True, help="Measure engines against the machine's limits.")
@click.option("--scaling", is_flag=True, help="Measure each of --threads against the first.")
@click.option("--memory", is_flag=True, help="Measure scratch, tapes and frozen weights instead of time.")
@click.option(
    "--situations", "names_of_situations", type=one_of(lambda: list(situations.SITUATIONS)),
    help=f"Measure all threads against one in {', '.join(situations.SITUATIONS)}, or some of them.",
)  # fmt: skip
@click.option(
    "--threading", "providers", type=one_of(native.threading_names),
    help="Providers of threads to measure in situations. [default: all]",
)  # fmt: skip
@click.option(
    "--precision", "precisions", type=one_of(lambda: list(PRECISIONS)),
    help="Measure frozen layers with weights of int8 or bfloat16 against float32; with --peers, --roofline, --scaling "
    "or --memory, of these precisions.",
)  # fmt: skip
@click.option(
    "--cells", type=one_of(lambda: [*names_of_cells(), *names_of_cells("loops")]),
    help=f"Of {', '.join(CELLS)}; with --loops of {', '.join(loops.VARIANTS)}. [default: all]",
)  # fmt: skip
@click.option("--kinds", type=one_of(lambda: KINDS), help="Of inference, training. [default: both]")
@click.option(
    "--cases", "--only", type=one_of(names_of_all_cases),
    help=f"Of {', '.join(CASES)}; with --loops of {', '.join(loops.CASES)}; with --models of "
    f"{', '.join(row.name for row in models.ROWS)}. [default: all]",
)  # fmt: skip
@click.option("--dtypes", type=one_of(lambda: DTYPES), help="Of float32, float64. [default: float32]")
@click.option(
    "--engines", "names", type=one_of(rivals), help="[default: all but the reference; with a mode, the one in use]"
)
@click.option("--threads", type=thread_counts(), help="Numbers of threads. [default: what fastrnn would use]")
@click.option(
    "--peers-python", "pythons", multiple=True, callback=interpreters, metavar="PYTHON",
    help="An interpreter in which to look for peers before this one. Can be given several times.",
)  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Measurements of each.")
@click.option(
    "--seconds", type=FiniteRange(0, 3600), default=0.1, show_default=True, help="How long a measurement takes."
)
@click.option(
    "--quick", is_flag=True, help="A choice of tasks, and fewer rounds where needed: a minute, more with peers."
)
@click.option("--json", "json_path", type=click.Path(), help="Write all numbers to this file.")
@click.option("--plot", "plot_path", type=click.Path(), help="Write a chart to this file: .png, .svg or .pdf.")
def bench(
    names_of_situations: list[str] | None, providers: list[str] | None, precisions: list[str] | None,
    cells: list[str] | None, kinds: list[str] | None, cases: list[str] | None,
    dtypes: list[str] | None, names: list[str] | None, threads: list[int] | None, pythons: list[str], rounds: int,
    seconds: float, quick: bool, json_path: str | None, plot_path: str | None, **modes: bool,
) -> None:  # fmt: skip
    """Measure engines against the NumPy reference, or what one of the first nine options says.

    Each case is verified against the reference in float64, then engine and reference are timed in turn. "x" says how
    many times as fast as the reference the engine was: the median over the rounds.

    With --precision, the same layers with weights of fewer bits are timed in turn with those of float32.

    With --peers, fastrnn and PyTorch, ONNX Runtime, OpenVINO and JAX, where they can be imported, are verified and
    timed in turn, each in a process of its own. With --loops, cells that no layer of PyTorch computes are measured
    beside a loop over their steps, as its users write it, and beside our plain cells. With --models, whole models are
    compared: training steps, and greedy decoding. With --roofline, "share" is the part of the machine's limits that an
    engine reached; the limits are measured in turn with the engine.

    With --situations, a few calls of an LSTM are timed with all threads and with one, in turn, while others want the
    cores, too; --threading names the providers of threads.

    The exit code is 1 if fastrnn computed something wrong, or took more memory than promised; with --models, if any
    library computed something else than the others.
    """
    modes["situations"] = names_of_situations is not None or providers is not None
    chosen = [name for name, given in modes.items() if given]
    if len(chosen) > 1:
        raise Failure(f"--{', --'.join(chosen)}: expected at most one of them, got {len(chosen)}")
    mode = chosen[0] if chosen else "precision" if precisions else None
    if json_path is not None:
        check_writable("--json", json_path)
    if plot_path is not None:
        if mode in NOTHING_TO_DRAW:
            raise Failure(f"--plot: expected {NOTHING_TO_DRAW[mode]}, got --{mode}")
        check_plot(plot_path)
    if pythons and mode not in ("peers", "loops", "models"):
        raise Failure("--peers-python: expected --peers, --loops or --models with it")
    threads = threads or [get_num_threads()]
    selected: list[Any]
    for option, given, names_of in (("--cells", cells, names_of_cells), ("--cases", cases, names_of_cases)):
        if given and not set(given) <= set(names_of(mode)):
            where = f"with --{mode}" if mode else "without a mode"
            raise Failure(f"{option}: expected some of {', '.join(names_of(mode))} {where}, got {', '.join(given)}")
    if mode in OWN_CASES:
        if cells or dtypes or precisions:
            raise Failure(f"--cells, --dtypes, --precision: expected none with --{mode}, which has cases of its own")
        selected = [
            case
            for case in OWN_CASES[mode][quick]
            if case.kind in (kinds or KINDS) and case.name in (cases or names_of_cases(mode))
        ]
    elif mode == "loops":
        if dtypes or precisions:
            raise Failure("--dtypes, --precision: expected none with --loops, which is of float32")
        sizes = cases or (loops.QUICK_CASES if quick else loops.CASES)
        selected = loops.tasks(cells or loops.VARIANTS, kinds or KINDS, sizes, threads)
    elif precisions and dtypes:
        raise Failure("--dtypes: expected none with --precision, which is of float32 layers")
    elif quick:
        selected = [
            task
            for task in measuring.quick_tasks(threads, precisions or ())
            if task.cell in (cells or CELLS) and task.kind in (kinds or KINDS)
            and task.case in (cases or CASES) and task.dtype in (dtypes or DTYPES)
        ]  # fmt: skip
    else:
        kept = precisions or dtypes or ["float32"]
        selected = measuring.tasks(cells or CELLS, kinds or KINDS, cases or CASES, kept, threads)
    if not selected:
        raise Failure("--quick, --kinds, --cases: expected something to measure, got a selection without any task")
    plan = Plan(
        selected, threads, names or [], rounds, seconds, QUICK_SECONDS if quick else math.inf, pythons,
        names_of_situations or list(situations.SITUATIONS), providers or list(native.threading_names()),
    )  # fmt: skip
    settings = {"mode": mode or "engines", "rounds": rounds, "seconds": seconds, "quick": quick}
    if carry_out(MODES[mode](plan), settings, json_path, plot_path):
        raise click.exceptions.Exit(1)


def carry_out(mode: Mode, settings: dict[str, Any], json_path: str | None, plot_path: str | None) -> bool:
    """Measure, report and write; return whether fastrnn broke a promise."""
    described = measuring.machine()
    results: list[Any] = []
    begin = time.perf_counter()
    try:
        with progress_bar() as progress:
            bar = progress.add_task("", total=len(mode.tasks))
            for result in mode.measure():
                results.append(result)
                progress.update(bar, advance=1, description=f"{result.task}")
    finally:  # results so far are also reported after an interrupt or an error
        settings |= {
            "complete": len(results) == len(mode.tasks), "duration": round(time.perf_counter() - begin, 1),
            "load_after": measuring.load_average(),
        }  # fmt: skip
        if results:
            report(mode, results, described, settings)
            write(mode, json_path, plot_path, results, described, settings)
    return mode.failed(results)


def progress_bar() -> Progress:
    console = Console(stderr=True, highlight=False)
    return Progress(
        BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), TextColumn("{task.description}"),
        console=console, disable=not console.is_terminal, transient=True,
    )  # fmt: skip


def report(mode: Mode, results: Sequence[Any], described: dict[str, Any], settings: dict[str, Any]) -> None:
    """Print a description of the machine, and the report of the mode."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(
        f"{described['cpu']}, {measuring.counted(described['cores'], 'core')}, load {described['load']} before, "
        f"{settings['load_after']} after; "
        f"fastrnn {described['fastrnn']}, {described['isa']}; numpy {described['numpy']}, scipy {described['scipy']}",
        soft_wrap=True,
    )
    took = f"{settings['duration']:.0f} s{'' if settings['complete'] else ', not completed'}."
    mode.report(console, results, took)


def write(
    mode: Mode, json_path: str | None, plot_path: str | None, results: Sequence[Any], described: dict[str, Any],
    settings: dict[str, Any],
) -> None:  # fmt: skip
    """Write the files that were asked for."""
    path = json_path
    try:
        if json_path is not None:
            content = mode.content(results, described, settings)
            Path(json_path).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        path = plot_path
        if plot_path is not None:
            mode.plot(plot_path, results, described)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from error
