"""PyTorch's recurrent layers with their accelerated twins, random calls of both, and the comparison of the results.

This module imports PyTorch, so tests call pytest.importorskip before they import it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from tolerances import scaled_error
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastrnn.torch

__all__ = ["CELLS", "TOLERANCE", "Trial", "assert_close", "run", "trials", "twins"]

CELLS = ("LSTM", "GRU", "RNN")

# What fastrnn.torch promises (docs/bridges.md), in the measure of tolerances.py.
TOLERANCE = {torch.float32: {"output": 1e-5, "gradient": 1e-4}, torch.float64: {"output": 1e-10, "gradient": 1e-10}}


def twins(cell: str, *args: Any, seed: int = 0, **options: Any) -> tuple[Any, Any]:
    """Return a layer of PyTorch, and an accelerated copy of it."""
    torch.manual_seed(seed)
    own = getattr(torch.nn, cell)(*args, **options)
    fast = fastrnn.torch.accelerate(copy.deepcopy(own))
    assert type(fast) is getattr(fastrnn.torch, cell)
    return own, fast


def parts(result: Any) -> list[torch.Tensor]:
    """Return y, h and, for an LSTM, c."""
    y, state = result
    return [y.data if isinstance(y, PackedSequence) else y, *(state if isinstance(state, tuple) else (state,))]


def assert_close(actual: Any, expected: Any, what: str, name: str) -> None:
    """Assert the same shape and dtype, and a scaled error within the tolerance.

    Where PyTorch gives no gradient (None), because the loss does not depend on the layer, zeros are accepted as well.
    """
    if expected is None:
        assert actual is None or not actual.any(), f"{name}: expected no gradient, got one"
        return
    assert actual.shape == expected.shape, name
    assert actual.dtype == expected.dtype, name
    error = scaled_error(actual.detach().numpy(), expected.detach().numpy())
    assert error <= TOLERANCE[expected.dtype][what], f"{name}: scaled error {error:.1e}"


@dataclass
class Trial:
    """A layer and a call of it in a short form, so that a failing example can be read and run again."""

    cell: str
    sizes: tuple[int, int]  # I, H
    options: dict[str, Any]
    shape: tuple[int, int]  # T, B
    form: str  # "batched", "unbatched", "packed", "packed sorted"
    state: bool
    training: bool
    graded: tuple[bool, bool, bool, bool]  # which need a gradient: x, state, weights, biases
    layout: str  # of x: "contiguous", "strided", "expanded"
    seed: int

    def build(self) -> tuple[Any, Any]:
        layers = twins(self.cell, *self.sizes, seed=self.seed, **self.options)
        for layer in layers:
            layer.train(self.training)
            for name, p in layer.named_parameters():
                p.requires_grad_(self.graded[3 if name.startswith("bias") else 2])
        return layers

    def arguments(self) -> tuple[list[torch.Tensor], Any, Any]:
        """Return new leaf tensors, and the input and state made of them; the values are the same at every call."""
        torch.manual_seed(self.seed + 1)
        (T, B), (I, H) = self.shape, self.sizes
        dtype, rows = self.options["dtype"], self.options["num_layers"] * (1 + self.options["bidirectional"])
        first = self.options["batch_first"]
        batch = () if self.form == "unbatched" else (B,)
        x = leaf = self.laid_out(torch.randn(*((*batch, T, I) if first else (T, *batch, I)), dtype=dtype))
        leaf.requires_grad_(self.graded[0])
        if self.form.startswith("packed"):
            lengths = torch.randint(1, T + 1, (B,))
            lengths[torch.randint(B, ())] = T
            ordered = self.form == "packed sorted"
            lengths = lengths.sort(descending=True).values if ordered else lengths
            x = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=ordered)
        out = self.options.get("proj_size") or H
        sizes = [out, H] if self.cell == "LSTM" else [out]
        states = [torch.randn(rows, *batch, n, dtype=dtype).requires_grad_(self.graded[1]) for n in sizes]
        if not self.state:
            return [leaf], x, None
        return [leaf, *states], x, tuple(states) if self.cell == "LSTM" else states[0]

    def laid_out(self, x: torch.Tensor) -> torch.Tensor:
        if self.layout == "strided":
            wide = torch.zeros(*(2 * n for n in x.shape), dtype=x.dtype)
            wide[tuple(slice(None, None, 2) for _ in x.shape)] = x
            return wide[tuple(slice(None, None, 2) for _ in x.shape)].detach()
        if self.layout == "expanded":
            return x[:1].expand(x.shape).detach()
        return x


def run(trial: Trial, layer: Any) -> tuple[list[torch.Tensor], list[Any]]:
    """Return the results, and the gradients of leaves and parameters."""
    leaves, x, hx = trial.arguments()
    torch.manual_seed(trial.seed + 2)  # for dropout
    results = parts(layer(x, hx))
    leaves = [*leaves, *layer.parameters()]
    if results[0].requires_grad:
        torch.manual_seed(trial.seed + 3)
        # The loss depends on some of y, h and c, not always on all.
        chosen = [r for r in results if torch.rand(()) < 0.7] or results[:1]
        torch.autograd.backward(chosen, [torch.randn(r.shape, dtype=r.dtype) for r in chosen])
    return results, [leaf.grad for leaf in leaves]


@st.composite
def trials(draw: Any, **fixed: Any) -> Trial:
    """Draw any layer that PyTorch has, and any call of it."""

    def pick(name: str, *values: Any) -> Any:
        return fixed[name] if name in fixed else draw(st.sampled_from(values))

    cell, H = pick("cell", *CELLS), pick("H", 1, 2, 3, 7, 16, 17, 33)
    layers = pick("num_layers", 1, 1, 2, 3)
    options = {
        "num_layers": layers,
        "bias": pick("bias", True, True, False),
        "batch_first": pick("batch_first", False, True),
        "bidirectional": pick("bidirectional", False, True),
        "dtype": pick("dtype", torch.float32, torch.float64),
        "dropout": pick("dropout", 0.0, 0.0, 0.3, 1.0) if layers > 1 else 0.0,
    }
    if cell == "LSTM" and H > 1:
        options["proj_size"] = pick("proj_size", 0, 0, H // 2)
    if cell == "RNN":
        options["nonlinearity"] = pick("nonlinearity", "tanh", "relu")
    return Trial(
        cell,
        (pick("I", 1, 2, 5, 16, 19), H),
        options,
        (pick("T", 1, 2, 3, 6, 11), pick("B", 1, 2, 3, 5, 8, 13)),
        pick("form", "batched", "packed", "packed sorted", "unbatched"),
        pick("state", True, False),
        pick("training", True, False),
        pick(
            "graded", (True,) * 4, (False, True, True, True), (True, False, False, False), (False, False, False, True)
        ),
        pick("layout", "contiguous", "strided", "expanded"),
        draw(st.integers(0, 2**31)),
    )
