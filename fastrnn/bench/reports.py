"""Results as text and as JSON, and a description of the machine that they were measured on."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy

from fastrnn._core import native
from fastrnn.bench.contenders import REFERENCE
from fastrnn.bench.measuring import Outcome, Result
from fastrnn.bench.tasks import CASES, HEADLINE_CASE, HEADLINE_H, Task, counted
from fastrnn.bench.verification import Verification
from fastrnn.engines import blas
from fastrnn.version import __version__

__all__ = [
    "SLOWER_LIMIT", "as_json", "load_average", "machine", "precision_summary", "scaling_summary", "spread", "summary",
    "timing",
]  # fmt: skip


def summary(results: Sequence[Result]) -> list[str]:
    """Return lines that say, for each contender, if it beat the reference where H >= 64, and its headline ratios."""
    names = dict.fromkeys(outcome.name for result in results for outcome in result.outcomes)
    pairs = {name: [(r.task, o) for r in results for o in r.outcomes if o.name == name] for name in names}
    return [line for name in names for line in (*summary_of_large(name, pairs[name]), *headlines(name, pairs[name]))]


def summary_of_large(name: str, pairs: list[tuple[Task, Outcome]]) -> Iterator[str]:
    large = [(task, outcome) for task, outcome in pairs if task.sizes.H >= HEADLINE_H]
    ratios = {task: median(outcome.ratios) for task, outcome in large if outcome.ratios}
    behind = [f"{task} ({ratio:.2f} x)" for task, ratio in ratios.items() if ratio <= 1]
    wrong = [f"{task}" for task, outcome in large if outcome.verification.wrong]
    if behind or wrong:
        yield "; ".join(
            [f"{name} was ahead in {len(ratios) - len(behind)} of {len(large)} cases of H >= {HEADLINE_H}"]
            + ([f"behind in {', '.join(behind)}"] if behind else [])
            + ([f"wrong in {', '.join(wrong)}"] if wrong else [])
        )
    elif large:
        least = min(ratios, key=lambda task: ratios[task])
        every = f"{name} was ahead in every case of H >= {HEADLINE_H} ({len(large)} of {len(large)})"
        yield f"{every}, by {ratios[least]:.1f} x at least ({least})"


def headlines(name: str, pairs: list[tuple[Task, Outcome]]) -> Iterator[str]:
    T, B, I, H = CASES[HEADLINE_CASE]
    ratios: dict[str, list[str]] = {}
    for task, outcome in pairs:
        if task.case == HEADLINE_CASE and outcome.ratios:
            conditions = f"{task.precision}, {counted(task.threads, 'thread')}"
            ratios.setdefault(conditions, []).append(f"{task.cell} {task.kind} {median(outcome.ratios):.1f} x")
    for conditions, words in ratios.items():
        yield f"{name} at T={T}, B={B}, I={I}, H={H}, {conditions}: {', '.join(words)}"


def machine() -> dict[str, Any]:
    """Return what figures depend on: processor, versions, instruction set, BLAS, load and date."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": load_average(),
        "fastrnn": __version__,
        "isa": native.isa_selected(),
        "blas": blas.name(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "reference_threads_controlled": blas.numpy_control() is not None,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def load_average() -> float | None:
    """Return how many threads ran or waited for a core in the last minute, or None if the system does not report it."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # there is no such file: not on Linux
        pass
    return platform.processor() or platform.machine()


def as_json(
    results: Sequence[Result], described: dict[str, Any], settings: dict[str, Any], lines: Sequence[str],
    base: str = REFERENCE, others: str = "engines",
) -> dict[str, Any]:  # fmt: skip
    """Return all numbers in a form that `json.dump` takes; times are in seconds.

    Parameters
    ----------
    results : sequence of Result
    described : dict
        From `machine`, called before the measurements.
    settings : dict
        How it was measured, in the caller's words.
    lines : sequence of str
        The summary.
    base, others : str
        The keys of the base and of the contenders in each result.

    Returns
    -------
    dict
        "machine", "settings", "summary", and "results": for each task its sizes, the base's and each contender's
        median and times by round, each contender's ratios by round, their median and verification, and which
        contenders were skipped.
    """
    return {
        "machine": described,
        "settings": settings,
        "summary": list(lines),
        "results": [
            {
                "cell": task.cell, "kind": task.kind, "case": task.case, "dtype": task.dtype,
                "precision": task.precision, "threads": task.threads, **task.sizes._asdict(),
                "flops": task.flops,
                base: timing(result.base_seconds) | verification_as_json(result.base_verification),
                others: {outcome.name: outcome_as_json(result, outcome) for outcome in result.outcomes},
                "skipped": result.skipped,
            }
            for result in results
            for task in [result.task]
        ],
    }  # fmt: skip


def timing(rounds: list[float]) -> dict[str, Any]:
    return {"seconds": median(rounds) if rounds else None, "rounds": rounds}


def spread(ratios: list[float]) -> dict[str, Any]:
    return {"ratio": median(ratios) if ratios else None, "ratios": ratios}


SLOWER_LIMIT = 1.1  # more threads may take at most this many times as long


def scaling_summary(results: Sequence[Result]) -> list[str]:
    """Return lines on how much longer more threads took at most. A ratio is the base's time divided by theirs."""
    lines = []
    for name in dict.fromkeys(outcome.name for result in results for outcome in result.outcomes):
        times = {r.task: 1 / median(o.ratios) for r in results for o in r.outcomes if o.name == name and o.ratios}
        if times:
            worst = max(times, key=lambda task: times[task])
            slower = [f"{task.name} ({ratio:.2f})" for task, ratio in times.items() if ratio > SLOWER_LIMIT]
            base = counted(worst.threads, "thread")
            lines.append(
                f"{name} took at most {times[worst]:.2f} times as long as {base} ({worst.name}); "
                f"more than {SLOWER_LIMIT} times in {', '.join(slower) or 'none'} of {counted(len(times), 'task')}"
            )
    return lines


def precision_summary(results: Sequence[Result]) -> list[str]:
    """Return for each precision a line on how fast and how exact it was. A ratio is float32's time divided by its."""
    lines = []
    for precision in dict.fromkeys(result.task.precision for result in results):
        pairs = {r.task: o for r in results for o in r.outcomes if r.task.precision == precision and o.ratios}
        if pairs:
            ratios = {task: median(outcome.ratios) for task, outcome in pairs.items()}
            errors = {task: max(outcome.verification.errors.values()) for task, outcome in pairs.items()}
            slower = [f"{task.name} ({ratio:.2f})" for task, ratio in ratios.items() if ratio <= 1]
            worst = max(errors, key=lambda task: errors[task])
            lines.append(
                f"{precision} was {median(ratios.values()):.2f} times as fast as float32 (median of "
                f"{counted(len(ratios), 'task')}), not faster in {', '.join(slower) or 'none'}; "
                f"largest error {errors[worst]:.0e} ({worst.name})"
            )
    return lines


def verification_as_json(verification: Verification | None) -> dict[str, Any]:
    """Return the entries of a verification; none for a base that is not verified."""
    if verification is None:
        return {}
    # JSON knows no infinity.
    errors = {name: error if math.isfinite(error) else None for name, error in verification.errors.items()}
    return {"verified": not verification.wrong, "verified_T": verification.T, "errors": errors}


def outcome_as_json(result: Result, outcome: Outcome) -> dict[str, Any]:
    return {
        **verification_as_json(outcome.verification),
        **timing(outcome.seconds),
        "gflops": result.gflops(outcome) if outcome.seconds else None,
        **spread(outcome.ratios),
    }
