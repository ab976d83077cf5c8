"""Results as tables of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table

from fastrnn.bench import Outcome, Result, Task, counted, loops, models, peers, situations
from fastrnn.bench.measuring import uncertain
from fastrnn.bench.memory import Usage, tape_limit
from fastrnn.bench.models.comparison import BASE, OWN

__all__ = [
    "RatioTable", "error_text", "loops_table", "models_memory_table", "models_table", "peers_table", "print_notes",
    "print_tables", "rounds", "situations_table", "usage_table",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class RatioTable:
    """Makes tables with a row for each contender in each task.

    Attributes
    ----------
    contender, base, ratio : str
        Headings: of the contenders' names, of the base's time, of the ratios.
    text : callable
        From a ratio to its text.
    loss : float
        Ratios up to this one are red.
    more : tuple of str and callable, optional
        A column more: its heading, and from a result and an outcome to its text.
    """

    contender: str
    base: str
    ratio: str = "x"
    text: Callable[[float], str] = "{:.2f}".format
    loss: float = 1
    more: tuple[str, Callable[[Result, Outcome], str]] | None = None

    def __call__(self, results: Sequence[Result], title: str) -> Table:
        """Make the table of results that share precision and number of threads."""
        more = [] if self.more is None else [self.more[0]]
        numbers = ["ms", "GFLOP\n/s", f"{self.base}\nms", *more, self.ratio]  # in all, 80 columns
        table = new_table(title, [self.contender], numbers)
        for result in with_sections(table, results):
            for outcome in result.outcomes:
                table.add_row(*columns_of(result.task), outcome.name, *self._figures(result, outcome))
        return table

    def _figures(self, result: Result, outcome: Outcome) -> list[str]:
        """Return the cells of a row that hold results."""
        more = [] if self.more is None else [self.more[1](result, outcome)]
        if not outcome.ratios:
            return ["", "", "", *more, "[bold red]wrong[/]"]
        return [
            milliseconds(median(outcome.seconds)),
            f"{result.gflops(outcome):.1f}",
            milliseconds(median(result.base_seconds)),
            *more,
            ratio_text(outcome, self.text, self.loss),
        ]


def peers_table(results: Sequence[Result], title: str) -> Table:
    """Return a table with a row for each task and a column for each peer."""
    names = [name for name in peers.PEERS if any(name in by_name(result) for result in results)]
    table = new_table(title, [], ["ms", *names, "fastest"])
    for result in with_sections(table, results):
        outcomes, best = by_name(result), peers.fastest(result)
        if result.wrong:
            own = "[bold red]wrong[/]"
        else:
            own = milliseconds(median(result.base_seconds)) if result.base_seconds else ""
        ratios = []
        for name in names:
            if name in outcomes and outcomes[name].verification.wrong:
                ratios.append("[bold red]wrong[/]")
            else:
                ratios.append(ratio_text(outcomes[name]) if name in outcomes and outcomes[name].ratios else "")
        table.add_row(*columns_of(result.task), own, *ratios, "" if best is None else best.name)
    return table


def loops_table(results: Sequence[loops.Result], title: str) -> Table:
    """Return a table with a row for each variant in each size, and a column for each contender beside it."""
    headings = {loops.LOOP: "loop", loops.COMPILED: "compiled", loops.PLAIN: "of\nplain"}
    table = new_table(title, [], ["ms", *headings.values()], ("variant", "kind", "case", "T,B,I,H"))
    for result in with_sections(table, results):
        task, outcomes, cells = result.task, by_name(result), []
        for name in headings:
            outcome = outcomes.get(name)
            if outcome is not None and outcome.verification.wrong:
                cells.append("[bold red]wrong[/]")
            elif outcome is None or not outcome.ratios:
                cells.append("")
            else:
                text = f"{loops.cost(outcome) if name == loops.PLAIN else median(outcome.ratios):.2f}"
                cells.append(f"[bold red]{text}[/]" if loops.missed(task.variant, outcome) else text)
                cells[-1] += "~" * outcome.uncertain
        own = milliseconds(median(result.base_seconds)) if result.base_seconds else ""
        own = "[bold red]wrong[/]" if result.wrong else own
        table.add_row(task.variant.name, task.kind, task.case, str(task.sizes), own, *cells)
    return table


def models_table(results: Sequence[models.Result], title: str) -> Table:
    """Return a table with a row for each row, and for each contender its speed and, beside PyTorch, its ratio."""
    names = contenders_of(results)
    headings = [heading for name in names for heading in ([name] if name == BASE else [name, "x"])]
    table = new_table(title, ["targets"], headings, ["row"])
    for result in results:
        outcomes, cells = by_name(result), []
        for name in names:
            outcome = outcomes.get(name)
            if outcome is None:
                cells += ["", ""]
            elif outcome.verification.wrong:
                cells += ["[bold red]wrong[/]", ""]
            else:
                cells.append(f"{result.speed(outcome):,.0f}" if outcome.seconds else "")
                cells.append(ratio_text(outcome) if outcome.ratios else "")
            if name == BASE:
                cells.pop()
        table.add_row(str(result.task), result.task.unit, *cells)
    return table


def models_memory_table(results: Sequence[models.Result], title: str) -> Table:
    """Return a table with a row for each row, and for each contender what its process took."""
    names = contenders_of(results)
    table = new_table(title, [], [*(f"{name}\n{what}" for name in names for what in ("model", "all")), "x"], ["row"])
    for result in results:
        cells = []
        for name in names:
            taken = result.memory.get(name)
            cells += ["", ""] if not taken else [f"{size / 2**20:.0f}" for size in (taken.above, taken.peak)]
        own, base = (result.memory.get(name) for name in (OWN, BASE))
        share = f"{own.above / base.above:.2f}" if own and base and base.above > 0 else ""
        table.add_row(str(result.task), *cells, share)
    return table


def contenders_of(results: Sequence[models.Result]) -> list[str]:
    return [name for name in models.CONTENDERS if any(name in by_name(result) for result in results)]


def rounds(seconds: Sequence[Sequence[float]]) -> str:
    """Return how many rounds there were, from the times of each task."""
    done = sorted({len(times) for times in seconds})
    return f"{done[0]}{f' to {done[-1]}' if len(done) > 1 else ''}"


def by_name(result: Result | models.Result) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in result.outcomes}


USAGE_HEADINGS = [
    "scratch", "tape", "design's\ntape", "states:\nscratch", "states:\ntape", "frozen", "share",
]  # fmt: skip


def usage_table(usages: Iterable[Usage]) -> Table:
    """Return a table with a row for each task and engine."""
    table = new_table("memory, MiB", ["precision", "engine"], USAGE_HEADINGS)
    for usage in usages:
        sizes = (usage.scratch, usage.tape, tape_limit(usage.task), usage.weights)
        scratch, *tapes, weights = (f"{size / 2**20:.2f}" for size in sizes)
        frozen = [weights, f"{usage.weights_share:.2f}"]
        states = [f"{size / 2**20:.2f}" for size in (usage.states_scratch, usage.states_tape)]
        none = [""] * 2
        texts = [scratch, *none, *none, *frozen]
        if usage.task.kind == "training":
            texts = [scratch, *tapes, *states, *none]
        if usage.broken:
            texts = [f"[bold red]{text}[/]" if text else "" for text in texts]
        table.add_row(*columns_of(usage.task), usage.task.precision, usage.engine, *texts)
    return table


def situations_table(results: Sequence[situations.Timing], title: str) -> Table:
    """Return a table with a row for each provider of threads in each variant of a situation, a column for each case."""
    cases = list(dict.fromkeys(timing.task.case for timing in results))
    headings = [f"{case.name}\n{case.kind}\n{case.sizes.T},{case.sizes.B},{case.sizes.H}" for case in cases]
    table = new_table(title, ["threading"], headings, ["situation"])
    rows: dict[str, dict[str, dict[situations.Case, str]]] = {}
    for timing in results:
        if not timing.skipped:
            row = rows.setdefault(timing.task.variant, {}).setdefault(timing.task.provider, {})
            row[timing.task.case] = times_text(timing.ratios)
    for variant, providers in rows.items():
        for provider, row in providers.items():
            table.add_row(variant, provider, *(row.get(case, "") for case in cases))
    return table


def times_text(ratios: Sequence[float]) -> str:
    """Return how many times as long calls took, with a mark if that is a loss."""
    ratio = median(ratios)
    text = f"[bold red]{ratio:.2f}![/]" if ratio > situations.LOSS_LIMIT else f"{ratio:.2f}"
    return text + ("~" if uncertain(ratios) else "")


def new_table(
    title: str, texts: Sequence[str], numbers: Sequence[str], first: Sequence[str] = ("cell", "kind", "case", "T,B,I,H")
) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for heading in (*first, *texts):
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def columns_of(task: Task) -> tuple[str, str, str, str]:
    return task.cell, task.kind, task.case, str(task.sizes)


OneResult = TypeVar("OneResult", bound=Result)


def with_sections(table: Table, results: Sequence[OneResult]) -> Iterator[OneResult]:
    """Yield the results, and draw a line in the table between those of different cells and kinds."""
    group = None
    for result in results:
        if group not in (None, (result.task.cell, result.task.kind)):
            table.add_section()
        group = result.task.cell, result.task.kind
        yield result


def ratio_text(outcome: Outcome, text: Callable[[float], str] = "{:.2f}".format, loss: float = 1) -> str:
    ratio = median(outcome.ratios)
    return (text(ratio) if ratio > loss else f"[bold red]{text(ratio)}[/]") + ("~" if outcome.uncertain else "")


def error_text(result: Result, outcome: Outcome) -> str:
    return f"{max(outcome.verification.errors.values()):.0e}"


def milliseconds(seconds: float) -> str:
    """Return milliseconds with about three digits, in at most six characters."""
    ms = seconds * 1e3
    return f"{ms:.{4 if ms < 1 else 2 if ms < 100 else 0}f}"


def print_tables(console: Console, results: Sequence[Result], table: Callable[[Sequence[Result], str], Table]) -> None:
    """Print a table for each precision and number of threads."""
    for conditions in dict.fromkeys((result.task.precision, result.task.threads) for result in results):
        part = [result for result in results if (result.task.precision, result.task.threads) == conditions]
        console.print(table(part, f"{conditions[0]}, {counted(conditions[1], 'thread')}"))
    if any(outcome.uncertain for result in results for outcome in result.outcomes):
        console.print("\n~: uncertain: one round only, or rounds that differ by more than a factor of two.")


def print_notes(console: Console, results: Sequence[Result], own: str) -> None:
    """Print what was wrong, and what was verified on fewer steps; `own` is the name of the base."""
    for result in results:
        verifications = [(outcome.name, outcome.verification) for outcome in result.outcomes]
        if result.base_verification is not None:
            verifications.insert(0, (own, result.base_verification))
        for name, verification in verifications:
            if verification.wrong:
                console.print(f"[bold red]wrong[/]: {name}, {result.task}: {verification}", soft_wrap=True)
        fewer = {verification.T for _, verification in verifications if verification.T < result.task.sizes.T}
        for T in fewer:  # all contenders have the same
            names = ", ".join(name for name, _ in verifications)
            console.print(
                f"verified on {T} of {result.task.sizes.T} time steps: {names}, {result.task}", soft_wrap=True
            )
