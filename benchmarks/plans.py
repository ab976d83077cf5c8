"""Is the plan that the cost model chooses (csrc/sequence/plan.c) near the best? Run: python benchmarks/plans.py

Every case is timed in four ways, in turn: on one thread, with the rows shared among threads, with the units shared, and
with the plan that the cost model chooses. The table shows the times relative to the best of the first three, as medians
over rounds. A choice that takes more than 1.10 times as long as the best is marked.

With --simulate nothing is timed: the table shows what the model chooses for larger machines, and the speed over one
thread that it expects. It knows this machine's caches, and assumes that all cores are alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import click
import numpy as np

import fastrnn
from fastrnn._core import native

GRID = [
    (100, 1, 64, 64), (100, 1, 128, 128), (100, 1, 256, 256), (100, 1, 512, 512), (50, 1, 1024, 1024),
    (10, 1, 256, 256), (100, 2, 128, 128), (37, 5, 17, 83), (100, 4, 64, 64), (100, 4, 128, 128), (100, 4, 256, 256),
    (50, 4, 512, 512), (100, 8, 64, 64), (100, 8, 256, 256), (50, 8, 512, 512), (100, 16, 128, 128), (50, 32, 256, 256),
    (25, 64, 512, 512), (50, 256, 64, 64),
]  # fmt: skip
PLANS = ("alone", "rows", "units", "chosen")


@contextmanager
def planned(plan: str, threads: int) -> Iterator[None]:
    with fastrnn.num_threads(1 if plan == "alone" else threads):
        native.insist_on_teams(plan if plan in ("rows", "units") else None)
        try:
            yield
        finally:
            native.insist_on_teams(None)


def runner(cell: str, training: bool, T: int, B: int, I: int, H: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    layer = getattr(fastrnn, cell)(I, H, rng=0)
    x, dy = rng.standard_normal((T, B, I), np.float32), rng.standard_normal((T, B, H), np.float32)
    if not training:
        frozen = layer.freeze()
        return lambda: frozen(x)
    return lambda: layer.backward(layer.forward(x)[2], dy)


def seconds(run: Callable[[], object], budget: float) -> float:
    """Return the time of a call: the lower quartile of as many calls as the budget allows, at least three."""
    run()
    times = []
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 4]


def simulate(cell: str, counts: list[int]) -> None:
    """Print the model's choice and its expected speed over one thread, for each number of threads."""
    from fastrnn.engines.cell import CELLS

    name = CELLS[cell.lower()](1, 1, np.dtype(np.float32)).native
    lanes = native.lanes(4)
    for backward in (False, True):
        for sizes in GRID:
            alone, *_ = native.simulate_plan(name, backward, *sizes, 1, lanes, 1)
            words = []
            for count in counts:
                time_of, members, split = native.simulate_plan(name, backward, *sizes, 1, lanes, count)
                words.append(f"{alone / time_of:5.1f} x {members:2} {split if members > 1 else '':5}")
            click.echo(
                f"{cell:5} {'backward' if backward else 'forward':9} {','.join(map(str, sizes)):18} {'  '.join(words)}"
            )


@click.command(help=__doc__)
@click.option("--cells", default="LSTM,GRU,RNN", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", "budget", default=0.05, show_default=True, help="For each measurement.")
@click.option("--simulate", "counts", help="Numbers of threads, say 4,8,16,32,64, instead of timing.")
def main(cells: str, threads: int, rounds: int, budget: float, counts: str | None) -> None:
    if counts:
        click.echo(
            f"{'cell':5} {'pass':9} {'T,B,I,H':18} " + "  ".join(f"{n + ' threads':16}" for n in counts.split(","))
        )
        for cell in cells.split(","):
            simulate(cell, [int(n) for n in counts.split(",")])
        return
    click.echo(f"{'cell':5} {'pass':9} {'T,B,I,H':18} {'best':>9}   " + " ".join(f"{plan:>7}" for plan in PLANS))
    missed = count = 0
    for cell in cells.split(","):
        for training in (False, True):
            for sizes in GRID:
                run = runner(cell, training, *sizes)
                times: dict[str, list[float]] = {plan: [] for plan in PLANS}
                for _ in range(rounds):
                    for plan in PLANS:
                        with planned(plan, threads):
                            times[plan].append(seconds(run, budget))
                best = min(PLANS[:3], key=lambda plan: median(times[plan]))
                ratios = {p: median(a / b for a, b in zip(times[p], times[best], strict=True)) for p in PLANS}
                count += 1
                missed += ratios["chosen"] > 1.1
                click.echo(
                    f"{cell:5} {'training' if training else 'inference':9} {','.join(map(str, sizes)):18}"
                    f" {median(times[best]) * 1e3:6.3f} ms   " + " ".join(f"{ratios[p]:7.2f}" for p in PLANS)
                    + (" <" if ratios["chosen"] > 1.1 else "")
                )  # fmt: skip
    click.echo(f"chosen within 1.10 of the best in {count - missed} of {count}")


if __name__ == "__main__":
    main()
