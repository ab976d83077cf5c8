"""Cells that PyTorch's users write themselves, beside their loops over time and beside our own plain cells.

variants.py says which cells, in which sizes, and what the targets are. torch.py has the loops; a process of `worker.py`
loads it by its path, so that an interpreter without fastrnn can run it. comparison.py verifies, and measures in turn.
"""

from fastrnn.bench.loops.comparison import COMPILED, RIVALS, Result, find, own_contenders, run, summary
from fastrnn.bench.loops.variants import CASES, LOOP, PLAIN, QUICK_CASES, VARIANTS, Task, Variant, cost, missed, tasks

__all__ = [
    "CASES", "COMPILED", "LOOP", "PLAIN", "QUICK_CASES", "RIVALS", "VARIANTS", "Result", "Task", "Variant", "cost",
    "find", "missed", "own_contenders", "run", "summary", "tasks",
]  # fmt: skip
