"""What is measured: cells that are more than the plain ones, their sizes, and the targets."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from fastrnn.bench.measuring import Outcome
from fastrnn.bench.tasks import CASES as SIZES
from fastrnn.bench.tasks import KINDS, Sizes
from fastrnn.bench.tasks import Task as PlainTask

__all__ = ["CASES", "LOOP", "PLAIN", "QUICK_CASES", "VARIANTS", "Task", "Variant", "cost", "missed", "tasks"]

# The names of outcomes: a PyTorch user's loop, and our own cell without what the variant adds.
LOOP, PLAIN = "loop", "plain"

Options = tuple[tuple[str, Any], ...]

# In inference zoneout is its expectation, and the others do nothing.
RANDOM = ("zoneout", "zoneout_cell", "candidate_dropout", "state_dropout", "input_dropout", "weight_dropout")

CASES: dict[str, Sizes] = {
    "lat128": SIZES["lat128"],
    "lat256": SIZES["lat256"],
    "lat512": SIZES["lat512"],
    "b8h128": Sizes(100, 8, 128, 128),
    "b8h256": SIZES["b8h256"],
    "b8h512": Sizes(100, 8, 512, 512),
    "t100b32h128": SIZES["t100b32h128"],
    "b32h256": SIZES["b32h256"],
    "b32h512": Sizes(100, 32, 512, 512),
}
QUICK_CASES = ("lat256", "t100b32h128")


@dataclass(frozen=True, slots=True)
class Variant:
    """A cell, what it adds to a plain one, and the targets.

    Attributes
    ----------
    name : str
    cell : str
        A key of `tasks.CELLS`.
    added : tuple of (str, value)
        The options that make the difference.
    faster : float or None
        The target beside the loop: at least so many times as fast. None: there is none, because PyTorch's users write
        no loop for it.
    dearer : float or None
        The target beside the plain cell: at most so many times its time. None: there is none.
    plain : str
        The plain cell, a key of `tasks.CELLS`.
    shared : tuple of (str, value)
        Options of both.
    kinds : sequence of str
        Without "inference" where that is the plain cell's.
    verified : int
        On how many steps at most. With layer normalisation gradients may grow from step to step, and rounding errors
        with them, everybody's; PyTorch's scan in log space loses digits with every step.
    """

    name: str
    cell: str
    added: Options
    faster: float | None
    dearer: float | None
    plain: str
    shared: Options = ()
    kinds: Sequence[str] = KINDS
    verified: int = 100

    def __str__(self) -> str:
        return self.name


NORM = 10, 1.35
NOISE = 10, 1.15
FEW = 20  # steps on which two programs still agree

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("rnn-norm", "rnn", (("layer_norm", "separate"),), *NORM, "rnn", verified=FEW),
        Variant("lstm-norm", "lstm", (("layer_norm", "separate"),), *NORM, "lstm", verified=FEW),
        Variant("lstm-norm-sum", "lstm", (("layer_norm", "sum"),), *NORM, "lstm", verified=FEW),
        Variant("gru-norm", "gru", (("layer_norm", "separate"),), *NORM, "gru", verified=FEW),
        Variant(
            "gru-norm-before", "gru", (("layer_norm", "separate"),), *NORM, "gru", (("reset_after", False),),
            verified=FEW,
        ),
        Variant("lstm-zoneout", "lstm", (("zoneout", 0.05), ("zoneout_cell", 0.5)), *NOISE, "lstm"),
        Variant("gru-zoneout", "gru", (("zoneout", 0.1),), *NOISE, "gru"),
        Variant("lstm-candidate", "lstm", (("candidate_dropout", 0.25),), *NOISE, "lstm", kinds=("training",)),
        Variant("gru-candidate", "gru", (("candidate_dropout", 0.25),), *NOISE, "gru", kinds=("training",)),
        Variant(
            "lstm-variational", "lstm", (("input_dropout", 0.25), ("state_dropout", 0.25)), *NOISE, "lstm",
            kinds=("training",),
        ),
        Variant("lstm-weights", "lstm", (("weight_dropout", 0.5),), None, 1.15, "lstm", kinds=("training",)),
        Variant("lstm-coupled", "lstm", (("coupled", True),), 10, 0.9, "lstm"),
        Variant("slstm", "slstm", (("num_heads", 4),), 5, None, "lstm"),
        Variant("mingru", "mingru", (), None, None, "gru", verified=FEW),
        Variant("minlstm", "minlstm", (), None, None, "lstm", verified=FEW),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task(PlainTask):
    """A variant in a size."""

    variant: Variant = field(kw_only=True)

    @property
    def name(self) -> str:
        """See `tasks.Task.name`."""
        return f"{self.variant} {self.kind} {self.case} {self.precision}"

    @property
    def settled(self) -> PlainTask:
        """What is verified: in training the same with all probabilities at zero, so that nothing is random."""
        sizes = self.sizes._replace(T=min(self.sizes.T, self.variant.verified))
        if self.kind == "inference":
            return replace(self, sizes=sizes)
        settled = tuple((name, 0.0 if name in RANDOM else value) for name, value in self.options)
        return replace(self, sizes=sizes, options=settled)

    @property
    def beside(self) -> PlainTask:
        """The plain cell's task."""
        variant = self.variant
        return PlainTask(
            variant.plain, self.kind, self.case, self.precision, self.threads, self.sizes, variant.shared
        )  # fmt: skip


def tasks(variants: Iterable[str], kinds: Iterable[str], cases: Iterable[str], threads: Iterable[int]) -> list[Task]:
    """Return all combinations that there are, in float32."""
    return [
        Task(
            variant.cell, kind, case, "float32", n, CASES[case], (*variant.shared, *variant.added), variant=variant
        )
        for n, variant, kind, case in itertools.product(threads, map(VARIANTS.__getitem__, variants), kinds, cases)
        if kind in variant.kinds
    ]  # fmt: skip


def cost(outcome: Outcome) -> float:
    """Return how many times the plain cell's time the variant takes; `outcome` is the plain cell's."""
    return 1 / median(outcome.ratios)


def missed(variant: Variant, outcome: Outcome) -> bool:
    """Whether an outcome is short of the variant's target. There is none beside the compiled loop."""
    if not outcome.ratios:
        return False
    if outcome.name == PLAIN:
        return variant.dearer is not None and cost(outcome) > variant.dearer
    return outcome.name == LOOP and variant.faster is not None and median(outcome.ratios) < variant.faster
