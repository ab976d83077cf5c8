"""What is measured: cases, which are sizes, and tasks made of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastrnn.engines.cell import CELLS, Cell

__all__ = [
    "CASES", "CELLS", "DTYPES", "HEADLINE_CASE", "HEADLINE_H", "KINDS", "QUICK_CASES", "WEIGHT_BYTES", "Sizes",
    "Task", "counted", "quick_tasks", "tasks",
]  # fmt: skip


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
QUICK_CELLS = ("rnn", "lstm", "gru")
HEADLINE_CASE = "t100b32h128"  # what the summary quotes
HEADLINE_H = 64  # the summary counts cases with at least so many hidden units

KINDS = ("inference", "training")
DTYPES = ("float32", "float64")
WEIGHT_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "int8": 1}  # of a weight in each precision


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to compute.

    Attributes
    ----------
    cell : str
        A key of `CELLS`: one layer, one direction, with biases.
    kind : str
        "inference": a frozen layer's call, or a step of its stream where T is 1. "training": a layer's forward and
        backward, with gradients in x, state and parameters. Both start from a given state.
    case : str
        A key of `CASES`.
    precision : str
        "float32" or "float64"; in inference also "bfloat16" or "int8": the weights of a float32 layer, when frozen.
    threads : int
        How many the contender may use. For little work it may use fewer.
    sizes : Sizes
        Those of the case. For verification there may be fewer steps.
    options : tuple of (str, value), optional
        Of the layer; the others are at their defaults.
    """

    cell: str
    kind: str
    case: str
    precision: str
    threads: int
    sizes: Sizes
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def dtype(self) -> str:
        """That of inputs, states and outputs."""
        return self.precision if self.precision in DTYPES else "float32"

    @property
    def description(self) -> Cell:
        """The cell, of the task's sizes."""
        cell = CELLS[self.cell]
        own = {name: value for name, value in self.options if name in cell.defaults()}
        return cell(self.sizes.I, self.sizes.H, np.dtype(self.dtype), **own)

    @property
    def flops(self) -> int:
        """Operations in matrix products: 2*T*B for each weight forward, and twice as many again for gradients."""
        weights = sum(math.prod(s) for name, s in self.description.shapes().items() if name.startswith("weight"))
        return 2 * self.sizes.T * self.sizes.B * weights * (3 if self.kind == "training" else 1)

    @property
    def name(self) -> str:
        """The task in words, without the number of threads."""
        return f"{self.cell} {self.kind} {self.case} {self.precision}"

    def __str__(self) -> str:
        return f"{self.name} {counted(self.threads, 'thread')}"


def tasks(
    cells: Iterable[str], kinds: Iterable[str], cases: Iterable[str], precisions: Iterable[str], threads: Iterable[int]
) -> list[Task]:
    """Return all combinations that there are: a single step is a stream's, and fewer bits are for inference."""
    combinations = itertools.product(threads, precisions, cells, kinds, cases)
    return [
        Task(cell, kind, case, precision, n, CASES[case])
        for n, precision, cell, kind, case in combinations
        if kind == "inference" or (CASES[case].T > 1 and precision in DTYPES)
    ]


def quick_tasks(threads: Iterable[int], precisions: Iterable[str] = ()) -> list[Task]:
    """Return a small selection of tasks: the usual cells in float32, and the headline case of an LSTM in float64.

    With `precisions`: the usual cells in those.
    """
    threads = list(threads)
    if precisions:
        return tasks(QUICK_CELLS, KINDS, QUICK_CASES, precisions, threads)
    return [
        *tasks(QUICK_CELLS, KINDS, QUICK_CASES, ["float32"], threads),
        *tasks(["lstm"], KINDS, [HEADLINE_CASE], ["float64"], threads),
    ]


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
