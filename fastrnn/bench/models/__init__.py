"""Whole models beside PyTorch and JAX: training steps from the first id to the updated weight, and greedy decoding.

rows.py has the sizes and draws the data. kit.py, torch.py and jax.py have the same models in each library. A process of
`worker.py` loads one of these three files by its path, so that an interpreter without fastrnn can run PyTorch and JAX.
comparison.py starts the processes, compares results, and measures in turn.
"""

from fastrnn.bench.models.comparison import CONTENDERS, Memory, Place, Result, find, run, summary, to_loss
from fastrnn.bench.models.rows import QUICK_ROWS, ROWS, Row, draw

__all__ = [
    "CONTENDERS", "QUICK_ROWS", "ROWS", "Memory", "Place", "Result", "Row", "draw", "find", "run", "summary", "to_loss",
]  # fmt: skip
