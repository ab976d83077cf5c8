"""Engines against the reference: verified, then timed in turn. ``fastrnn bench`` and benchmarks/ use this package.

A *task* is one cell, kind, case, dtype and number of threads. A *contender* loads a task and returns a *runner*, which
computes results and measures times. The reference is a contender, and so is each engine, and each library that runs in
a process of its own. The speed of a machine can change by a factor of two within minutes. So contenders are measured in
turn (A B A B ...), and the figure is a ratio of times taken within each round, as the median over the rounds.
"""

from fastrnn.bench.charts import PLOT_SUFFIXES, plot
from fastrnn.bench.contenders import REFERENCE, Contender, EngineContender, Runner
from fastrnn.bench.measuring import Outcome, Result, run
from fastrnn.bench.problems import Results
from fastrnn.bench.reports import as_json, load_average, machine, summary
from fastrnn.bench.tasks import CASES, CELLS, DTYPES, HEADLINE_CASE, KINDS, Sizes, Task, counted, quick_tasks, tasks
from fastrnn.bench.verification import Verification, expected, verify
from fastrnn.bench.worker import median_seconds, wait_until_idle

__all__ = [
    "CASES", "CELLS", "DTYPES", "HEADLINE_CASE", "KINDS", "PLOT_SUFFIXES", "REFERENCE", "Contender", "EngineContender",
    "Outcome", "Result", "Results", "Runner", "Sizes", "Task", "Verification", "as_json", "counted", "expected",
    "load_average", "machine", "median_seconds", "plot", "quick_tasks", "run", "summary", "tasks", "verify",
    "wait_until_idle",
]  # fmt: skip
