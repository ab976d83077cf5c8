"""Engines against the reference: each task is verified, then timed in turn. Behind ``fastrnn bench`` and benchmarks/.

A *task* is one cell, kind, case, dtype and number of threads. A *contender* loads a task and gives a *runner*, which
computes results and measures times. The reference is one contender, each engine another; a library in a process of
its own can be one as well. Machines drift by a factor of two within minutes, so contenders are measured in turn
(A B A B ...), and the claim is the median over rounds of the ratio within a round, not a ratio of two times.
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
