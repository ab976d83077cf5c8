"""Results as charts, with matplotlib."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from fastrnn.bench.measuring import Outcome, Result
from fastrnn.bench.peers import PEERS
from fastrnn.bench.tasks import CASES, CELLS, KINDS, Task, counted

__all__ = [
    "AGAINST_FLOAT32", "AGAINST_FLOOR", "AGAINST_REFERENCE", "PLOT_SUFFIXES", "Look", "plot", "plot_peers",
]  # fmt: skip

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, slots=True)
class Look:
    """How a chart presents ratios.

    Attributes
    ----------
    title : str
        What fastrnn was measured against.
    axis : str
        What a ratio is, as the label of the axis.
    origin : float
        The ratio at which bars begin.
    text : callable
        From a ratio to its text.
    loss : float
        Ratios up to this one are red.
    """

    title: str
    axis: str
    origin: float = 1
    text: Callable[[float], str] = "{:.3g}".format
    loss: float = 1


AGAINST_REFERENCE = Look("against its NumPy reference", "times as fast as the reference (log scale)")
AGAINST_FLOAT32 = Look("with weights of fewer bits, against float32", "times as fast as float32 (log scale)")
AGAINST_FLOOR = Look("against the limits of the machine", "floor / measured time", 0, "{:.0%}".format, -1)


def plot(
    path: str | os.PathLike[str], results: Sequence[Result], described: dict[str, Any], look: Look = AGAINST_REFERENCE
) -> None:
    """Draw the ratios as bars, grouped by case, a panel for each kind of task.

    Parameters
    ----------
    path : path-like
        Ends in .png, .svg or .pdf, which selects the format.
    results : sequence of Result
    described : dict
        From `machine`.
    look : Look, optional
        How to present the ratios. Default: as ratios to the reference.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    OSError
        If the file cannot be written.
    """
    bars = [Bar(result.task, outcome) for result in results for outcome in result.outcomes]
    kinds = [kind for kind in KINDS if any(bar.task.kind == kind for bar in bars)]
    # Each combination of engine, precision and number of threads has a hatch. Labels name those of the three that vary.
    hatches = dict(zip(dict.fromkeys(bar.variant for bar in bars), itertools.cycle(("", "////", "....", "xxxx", "--"))))
    varying = [k for k, values in enumerate(zip(*hatches, strict=True)) if len(set(values)) > 1]
    shared = [word for k, word in enumerate(bars[0].variant) if k not in varying]

    rows = max(sum(bar.task.kind == kind for bar in bars) + len({bar.task.case for bar in bars}) for kind in kinds)
    figure, panels = panels_of(kinds, 2.2 + 0.17 * rows, look.title, shared, described)
    legend: dict[str, Any] = {}
    for axes, kind in zip(panels, kinds, strict=True):
        y, ticks = 0, {}
        for case, sizes in CASES.items():
            group = [bar for bar in bars if (bar.task.kind, bar.task.case) == (kind, case)]
            for bar in group:
                label = " ".join([bar.task.cell, *(bar.variant[k] for k in varying)])
                legend.setdefault(label, draw_bar(axes, y, bar, hatches[bar.variant], look))
                y += 1
            if group:
                ticks[y - (len(group) + 1) / 2] = f"{case} ({sizes})"
                y += 1
        set_rows(axes, ticks, y - 1)
        if look.origin == 0:
            axes.set_xlim(0, 1.15 * max([1, *(bar.most for bar in bars)]))
        else:
            set_log_axis(axes, [ratio for bar in bars for ratio in (bar.least, bar.most)])
        set_axis_style(axes, look.axis)
    save(figure, path, legend)


PEER_COLOURS = dict(zip(PEERS, ("#ee6677", "#4477aa", "#228833", "#aa3377"), strict=True))


def plot_peers(path: str | os.PathLike[str], results: Sequence[Result], described: dict[str, Any]) -> None:
    """Draw the ratios of peers as dots, a row for each task (T, B, I, H), a panel for each kind of task.

    Parameters, Raises
    ------------------
    As for `plot`.
    """
    kinds = [kind for kind in KINDS if any(result.task.kind == kind for result in results)]
    conditions = list(dict.fromkeys((r.task.precision, counted(r.task.threads, "thread")) for r in results))
    shared = conditions[0] if len(conditions) == 1 else ()
    rows = max(sum(result.task.kind == kind for result in results) for kind in kinds)
    figure, panels = panels_of(kinds, 2.5 + 0.2 * rows, "beside its peers", shared, described)
    legend: dict[str, Any] = {}
    for axes, kind in zip(panels, kinds, strict=True):
        part = [result for result in results if result.task.kind == kind]
        for y, result in enumerate(part):
            for outcome in (outcome for outcome in result.outcomes if outcome.ratios):
                colour = PEER_COLOURS.get(outcome.name, "black")
                axes.plot([min(outcome.ratios), max(outcome.ratios)], [y, y], color=colour, linewidth=0.8)
                dot = axes.plot(median(outcome.ratios), y, "o", color=colour, markersize=5)[0]
                legend.setdefault(PEERS[outcome.name].title if outcome.name in PEERS else outcome.name, dot)
        names = [f"{r.task.cell.upper()} {r.task.sizes}" for r in part]
        if not shared:
            names = [f"{name} {r.task.precision} {r.task.threads}" for name, r in zip(names, part, strict=True)]
        set_rows(axes, dict(enumerate(names)), len(part))
        set_log_axis(axes, [ratio for result in results for outcome in result.outcomes for ratio in outcome.ratios])
        set_axis_style(axes, "peer's time / fastrnn's (log scale): right of 1 fastrnn is faster")
        axes.axvspan(axes.get_xlim()[0], 1, color="#eeeeee", zorder=0)
    save(figure, path, legend)


def panels_of(
    kinds: Sequence[str], height: float, title: str, shared: Iterable[str], described: dict[str, Any]
) -> tuple[Any, Sequence[Any]]:
    """Return a figure whose title says what was measured and where, and axes for each kind of task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(kinds) + 1, height), layout="constrained")
    conditions = ", ".join([described["cpu"], described["isa"], *shared, described["date"][:10]])
    figure.suptitle(f"fastrnn {described['fastrnn']} {title}\n{conditions}", fontsize="medium")
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        axes.set_title(kind, fontsize="medium", fontweight="bold")
    return figure, panels


def save(figure: Any, path: str | os.PathLike[str], legend: dict[str, Any]) -> None:
    legend["least to most of the rounds"] = figure.axes[0].plot([], [], color="black", linewidth=0.8)[0]
    columns = 5 if len(figure.axes) > 1 else 2
    figure.legend(
        legend.values(), legend.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize="small"
    )
    figure.savefig(path, dpi=150)


class Bar(NamedTuple):
    """One contender's ratio in one task, or 1 if it was wrong and so was not timed."""

    task: Task
    outcome: Outcome

    @property
    def variant(self) -> tuple[str, str, str]:
        return self.outcome.name, self.task.precision, counted(self.task.threads, "thread")

    @property
    def ratio(self) -> float:
        return median(self.outcome.ratios or [1])

    @property
    def least(self) -> float:
        return min(self.outcome.ratios, default=1)

    @property
    def most(self) -> float:
        return max(self.outcome.ratios, default=1)


CELL_COLOURS = dict(zip(CELLS, itertools.cycle(("#4477aa", "#ee9944", "#228833", "#aa3377")), strict=False))


def draw_bar(axes: Any, y: int, bar: Bar, hatch: str, look: Look) -> Any:
    """Draw a bar up to the ratio, a line over the range of the rounds, and the number."""
    drawn = axes.barh(
        y, bar.ratio - look.origin, left=look.origin, height=0.9, color=CELL_COLOURS[bar.task.cell], hatch=hatch,
        edgecolor="white", linewidth=0,
    )  # fmt: skip
    axes.plot([bar.least, bar.most], [y, y], color="black", linewidth=0.8)
    colour, weight = ("black", "normal") if bar.ratio > look.loss else ("red", "bold")
    text = look.text(bar.ratio) if bar.outcome.ratios else "wrong results"
    axes.annotate(
        text, (max(bar.most, look.origin), y), (3, 0), textcoords="offset points", va="center", fontsize=7,
        color=colour, fontweight=weight,
    )  # fmt: skip
    return drawn


def set_rows(axes: Any, ticks: dict[float, str], end: float) -> None:
    """Name the rows, which go from the top to `end`."""
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize="small")
    axes.set_ylim(end, -1)


def set_log_axis(axes: Any, ratios: Iterable[float]) -> None:
    """Make x a logarithmic axis that shows all ratios, and 1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ratios = list(ratios)
    least, most = 0.9 * min([1, *ratios]), 1.6 * max([2, *ratios])
    axes.set_xscale("log")
    axes.set_xlim(least, most)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most / least < 1000 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def set_axis_style(axes: Any, label: str) -> None:
    axes.set_xlabel(label, fontsize="small")
    axes.tick_params(axis="x", labelsize="small")
    axes.tick_params(axis="y", length=0)
    axes.axvline(1, color="black", linewidth=1)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
