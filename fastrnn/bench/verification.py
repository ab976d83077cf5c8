"""Verification: a contender's results are compared with those of the reference in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastrnn.bench.contenders import REFERENCE, Contender, EngineRunner
from fastrnn.bench.problems import Problem, Results
from fastrnn.bench.tasks import Task

__all__ = ["Verification", "expected", "scaled_error", "verified_task", "verify"]

# The largest scaled errors, max|a - b| / max(1, max|b|), that rounding can explain: a pre-activation sums up to 2,048
# products, a gradient of a weight up to 25,600 rows. They are at least ten times the errors of engines that are right,
# and less than those of a bug. Weights of fewer bits are rounded, and in int8 x and h as well, by peers at times for a
# whole batch: three times the largest errors of the reference engine, which are those of RNNs.
TOLERANCE = {
    "float32": {"value": 2e-5, "gradient": 1e-4},
    "float64": {"value": 4e-14, "gradient": 2e-13},
    "bfloat16": {"value": 2e-2},
    "int8": {"value": 9e-2},
}
# The reference takes about half a second for this many operations in float64. Larger tasks are verified on fewer steps.
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
    """Return the task, with fewer steps if the float64 reference would take more than about half a second."""
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
    tolerance = TOLERANCE[task.precision]
    wrong = [
        name for name, error in errors.items() if error > tolerance["gradient" if name.startswith("grad") else "value"]
    ]
    return Verification(task.sizes.T, errors, tuple(wrong))


def scaled_error(actual: NDArray | None, expectation: NDArray) -> float:
    if actual is None or actual.shape != expectation.shape or not np.isfinite(actual).all():
        return math.inf
    return float(np.abs(actual - expectation).max() / max(1, np.abs(expectation).max()))
