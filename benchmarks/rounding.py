"""Rounding errors of float32 layers beside those of other libraries: the table of docs/math.md.

python benchmarks/rounding.py: the root mean square of what y differs by from float64, in units of 1e-8. The reference
engine is plain NumPy. PyTorch and ONNX Runtime are compared where they are installed.
"""

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np

import fastrnn
from fastrnn.bench import worker
from fastrnn.layers import LAYERS

SIZES = [(50, 1, 32, 32), (50, 1, 128, 128), (50, 8, 128, 128), (50, 1, 512, 512), (20, 32, 512, 512),
         (20, 8, 1024, 1024)]  # fmt: skip


def outputs(problem):
    """Yield each contender's name and y."""
    layer = LAYERS[problem.cell](problem.x.shape[-1], problem.dy.shape[-1])
    layer.load_state_dict(problem.params)
    for name, engine in (("fastrnn", "packed"), ("NumPy", "reference")):
        with fastrnn.engines.use(engine):
            yield name, layer(problem.x)[0]
    for name, load in (("torch", worker.load_torch), ("onnxruntime", worker.load_onnxruntime)):
        if find_spec(name):
            yield name, np.asarray(load(problem)[1]()["y"])


for cell in ("lstm", "gru", "rnn"):
    for T, B, I, H in SIZES:
        exact = LAYERS[cell](I, H, dtype=np.float64, rng=0)
        params = {name: a.astype(np.float32) for name, a in exact.params.items()}
        exact.load_state_dict({name: a.astype(np.float64) for name, a in params.items()})
        x = np.random.default_rng(0).standard_normal((T, B, I), np.float32)
        dy = np.zeros((T, B, H), np.float32)
        with fastrnn.engines.use("reference"):
            y, _ = exact(x.astype(np.float64))
        problem = SimpleNamespace(cell=cell, kind="inference", threads=1, x=x, dy=dy, params=params)
        errors = {name: 1e8 * np.sqrt(np.mean((found - y) ** 2)) for name, found in outputs(problem)}
        print(f"{cell:5}{T:3}, {B:2}, {H:4}  ", *(f"{name} {error:5.1f} " for name, error in errors.items()))
