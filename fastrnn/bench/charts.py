"""Results as charts, with matplotlib."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from fastrnn.bench.measuring import Outcome, Result
from fastrnn.bench.tasks import CASES, CELLS, KINDS, Task, counted

__all__ = ["PLOT_SUFFIXES", "plot"]

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
