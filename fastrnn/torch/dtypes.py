"""Calls in lower precision: computed in float32, and returned in the dtype that PyTorch would return."""

from __future__ import annotations

import contextlib
import threading
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastrnn.torch.compiler import constant

__all__ = ["NARROW", "computed_in", "results_in"]

NARROW = (torch.float16, torch.bfloat16)
FLOATS = (*NARROW, torch.float32, torch.float64)

_known: dict[tuple[Any, ...], tuple[torch.dtype, ...] | None] = {}


def computed_in(dtypes: list[torch.dtype]) -> torch.dtype | None:
    """The dtype that holds all of these numbers and that the kernels have; None if there is none."""
    if not all(dtype in FLOATS for dtype in dtypes):
        return None
    return torch.float64 if torch.float64 in dtypes else torch.float32


@constant
def results_in(
    mode: str, x: torch.dtype, states: tuple[torch.dtype, ...], weights: tuple[torch.dtype, ...],
    autocast: torch.dtype | None, recorded: bool, sizes: tuple[int, ...], num_layers: int, bias: bool, bidirectional: bool,
    projected: bool,
) -> tuple[torch.dtype, ...] | None:  # fmt: skip
    """The dtypes of y, h and c that PyTorch's layer would return; None if it would raise an error.

    They follow from no simple rule: PyTorch has several implementations, some for certain processors only, or for a
    PackedSequence of equal lengths. So its layer is asked, of two units. `sizes` are the batch sizes of a
    PackedSequence like the caller's; empty: it is a tensor.
    """
    key = (mode, x, states, weights, autocast, recorded, sizes, num_layers, bias, bidirectional, projected)
    if key not in _known:
        # In a new thread no mode, transform or autocast of the caller's is active.
        thread = threading.Thread(target=_ask, args=key)
        thread.start()
        thread.join()
    return _known[key]


def _ask(*key: Any) -> None:
    mode, x, states, weights, autocast, recorded, sizes, num_layers, bias, bidirectional, projected = key
    kind, *nonlinearity = mode.lower().split("_")
    options = {"num_layers": num_layers, "bias": bias, "bidirectional": bidirectional, "device": "meta"}
    options |= {"proj_size": 1} if projected else {}
    options |= {"nonlinearity": nonlinearity[0]} if nonlinearity else {}
    layer = getattr(torch.nn, kind.upper())(2, 2, **options)
    for (name, p), dtype in zip(list(layer.named_parameters()), weights, strict=True):
        weight = torch.zeros(p.shape, dtype=dtype, device="cpu")
        setattr(layer, name, torch.nn.Parameter(weight, requires_grad=recorded))
    B = sizes[0] if sizes else 1
    input: Any = torch.zeros(2, 1, 2, dtype=x, device="cpu")
    if sizes:
        rows = torch.zeros(sum(sizes), 2, dtype=x, device="cpu")
        input = PackedSequence(rows, torch.tensor(sizes, dtype=torch.int64, device="cpu"))
    hx: Any = None
    if states:
        LD, O = num_layers * (1 + bidirectional), 1 if projected else 2
        zeros = [torch.zeros(LD, B, n, dtype=dtype, device="cpu") for n, dtype in zip((O, 2), states, strict=False)]
        hx = tuple(zeros) if kind == "lstm" else zeros[0]
    _known[key] = None
    with (
        warnings.catch_warnings(),
        contextlib.suppress(RuntimeError, ValueError),
        torch.set_grad_enabled(recorded),
        torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None),
    ):
        warnings.simplefilter("ignore")
        y, found = layer(input, hx)
        results: list[Tensor] = [y.data if sizes else y, *(found if isinstance(found, tuple) else (found,))]
        _known[key] = tuple(t.dtype for t in results)
