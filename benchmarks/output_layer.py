"""Time and memory of an output layer with cross-entropy: the table of docs/memory.md.

python benchmarks/output_layer.py V {fused,apart,torch}: 700 rows of 650 values, 2 threads, in a process of its own.
"""

import sys
import time
from pathlib import Path

import numpy as np

import fastrnn
from fastrnn import nn

N, I = 700, 650


def mebibytes(field):
    """Return VmRSS, the memory of this process, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


V, which = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
x, targets = rng.standard_normal((N, I), np.float32), rng.integers(0, V, N)
if which == "torch":
    import torch

    torch.set_num_threads(2)
    layer, rows, ids = torch.nn.Linear(I, V), torch.from_numpy(x).requires_grad_(), torch.from_numpy(targets)

    def step():
        layer.zero_grad()
        rows.grad = None
        torch.nn.functional.cross_entropy(layer(rows), ids).backward()
else:
    fastrnn.set_num_threads(2)
    output, criterion = nn.Linear(I, V, rng=0), nn.SoftmaxCrossEntropy()
    part = output if which == "fused" else nn.Sequential(output)

    def step():
        criterion.of_output(part, x, targets)


Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
before, seconds = mebibytes("VmRSS"), []
for _ in range(4):
    begin = time.perf_counter()
    step()
    seconds.append(time.perf_counter() - begin)
print(f"V {V}, {which}: {min(seconds) * 1e3:.0f} ms, {mebibytes('VmHWM') - before:.0f} MiB above what was there before")
