"""fastrnn's cells against the loops that PyTorch's users write for them, live, where PyTorch is installed.

The loops are those that `fastrnn bench --loops` measures. What they compute is differentiated by PyTorch.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from test_live_torch import Trial, identify, import_torch

# Cells without randomness ------------------------------------------------------------------------------------------

STACK = {"num_layers": 2, "bidirectional": True}

CELLS: list[tuple[str, dict[str, Any], str, bool, bool]] = [
    ("RNN", {"layer_norm": "separate"}, "float64", True, False),
    ("RNN", {"layer_norm": "sum", "nonlinearity": "relu"}, "float32", False, True),
    ("LSTM", {"layer_norm": "separate"}, "float32", False, False),
    ("LSTM", {"layer_norm": "separate"} | STACK, "float64", True, True),
    ("LSTM", {"layer_norm": "separate", "bias": False}, "float64", True, False),
    ("LSTM", {"layer_norm": "separate", "coupled": True, "layer_norm_eps": 1e-2}, "float64", False, True),
    ("LSTM", {"layer_norm": "sum"}, "float32", True, False),
    ("LSTM", {"layer_norm": "sum", "bias": False} | STACK, "float64", True, True),
    ("GRU", {"layer_norm": "separate"}, "float32", True, False),
    ("GRU", {"layer_norm": "separate"} | STACK, "float64", True, True),
    ("GRU", {"layer_norm": "separate", "reset_after": False}, "float64", False, False),
    ("GRU", {"layer_norm": "separate", "reset_after": False, "bias": False} | STACK, "float64", True, True),
    ("LSTM", {"coupled": True}, "float32", True, False),
    ("LSTM", {"coupled": True} | STACK, "float64", True, True),
    ("SLSTM", {}, "float64", False, False),
    ("SLSTM", {"num_heads": 3}, "float32", True, False),
    ("SLSTM", {"num_heads": 2} | STACK, "float64", True, True),
    ("MinGRU", {}, "float32", True, False),
    ("MinGRU", STACK, "float64", True, True),
    ("MinLSTM", {}, "float32", False, True),
    ("MinLSTM", {"bias": False} | STACK, "float64", True, True),
]


def loops() -> Any:
    """The module with the loops; skips where there is no PyTorch."""
    import_torch()
    from fastrnn.bench.loops import torch as module

    return module


def loops_of(trial: Trial) -> dict[str, Any]:
    """For the suffix of each layer and direction the loop over its steps, with the layer's parameters."""
    torch, module = import_torch(), loops()
    of_stack = ("num_layers", "bidirectional", "bias")
    options = {name: value for name, value in trial.kwargs.items() if name not in of_stack}
    params = {name: torch.tensor(np.array(value)) for name, value in trial.layer.params.items()}
    suffixes = dict.fromkeys(name[name.index("_l") :] for name in params)
    return {
        suffix: module.build(
            trial.cell.lower(), options,
            {name.removesuffix(suffix): value for name, value in params.items() if name.endswith(suffix)},
        )
        for suffix in suffixes
    }  # fmt: skip


def run_stack(torch: Any, trial: Trial, stack: dict[str, Any], x: Any, state: list[Any]) -> tuple[Any, Any]:
    """All layers and directions, one row of the batch at a time: a row is cut at its length and at its resets."""
    directions = 2 if trial.kwargs.get("bidirectional") else 1
    steps, batch, _ = x.shape
    y_rows, state_rows = [], []
    for b in range(batch):
        length = steps if trial.lengths is None else int(trial.lengths[b])
        cuts = [] if trial.resets is None else [t for t in range(length) if trial.resets[t, b]]
        below, finals = x[:length, b : b + 1], []
        for index in range(len(stack) // directions):
            above = []
            for direction in range(directions):
                loop = stack[f"_l{index}" + ("_reverse" if direction else "")]
                h = tuple(part[index * directions + direction, b : b + 1] for part in state)
                # Backwards, nothing is before the reset at 0.
                bounds = [0, *(cuts if direction == 0 else [length - t for t in reversed(cuts) if t]), length]
                read, pieces = below.flip(0) if direction else below, []
                for begin, end in itertools.pairwise(bounds):
                    if pieces or begin == end:
                        h = None
                    if begin < end:
                        y, h = loop(read[begin:end], h)
                        pieces.append(y)
                y = torch.cat(pieces)
                above.append(y.flip(0) if direction else y)
                finals.append(h)
            below = torch.cat(above, dim=2)
        y_rows.append(torch.nn.functional.pad(below, (0, 0, 0, 0, 0, steps - length)))
        state_rows.append([torch.stack(part) for part in zip(*finals, strict=True)])
    return torch.cat(y_rows, dim=1), tuple(torch.cat(rows, dim=1) for rows in zip(*state_rows, strict=True))


@pytest.mark.parametrize(
    ("cell", "kwargs", "dtype", "lengths", "resets"), CELLS, ids=[identify(*case) for case in CELLS]
)
def test_cell(cell: str, kwargs: dict[str, Any], dtype: str, lengths: bool, resets: bool, engine: str) -> None:
    torch, module = import_torch(), loops()
    trial = Trial(cell, kwargs, dtype, lengths, resets)
    if cell.startswith("Min"):
        trial.state = [np.abs(part) for part in trial.state]  # the loops compute with logarithms
    stack, leaves = loops_of(trial), trial.tensors(torch)
    for suffix, loop in stack.items():
        leaves |= {f"{name.removesuffix('_l0')}{suffix}": value for name, value in module.named(loop).items()}
    y, state_n = run_stack(torch, trial, stack, leaves["x"], [leaves[f"{k}"] for k in range(len(trial.state))])
    trial.compare(torch, y, state_n, leaves)
