"""Keras's backend PyTorch: inference, and training as nodes of PyTorch's graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrnn.engines.cell import Cell
from fastrnn.keras.arrays import infer
from fastrnn.keras.calls import Call
from fastrnn.torch import Accelerated
from fastrnn.torch.calls import records
from fastrnn.torch.function import ThreadsFor
from fastrnn.torch.private import as_usual
from fastrnn.torch.tensors import DTYPES, array, plain

__all__ = ["run"]

WIDE = {dtype: wide for wide, dtype in DTYPES.items()}
MODES = {
    ("lstm", ()): "LSTM",
    ("gru", (True,)): "GRU",
    ("gru", (False,)): "GRU_RESET_BEFORE",
    ("rnn", ("tanh",)): "RNN_TANH",
    ("rnn", ("relu",)): "RNN_RELU",
}


def run(inner: Any, call: Call, training: Any) -> Any:
    """The results of `inner_loop`, or why the call is Keras's."""
    tensors, mask = call.arrays(), call.mask
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or not as_usual():
        return "PyTorch compiles, traces or transforms the call"
    if not all(plain(t, t.dtype) for t in (*tensors, *([] if mask is None else [mask]))):
        return "tensors that do not lie in the CPU's memory"
    dtype, wide = tensors[0].dtype, WIDE[call.cell.dtype]
    tensors = [t.to(wide) for t in tensors]
    try:
        if records() and any(t.requires_grad for t in tensors):
            y, *states = _record(call, tensors)
        else:
            with ThreadsFor(call.x.shape[0] * call.x.shape[1], _operations(call)):
                found = infer(
                    inner.weights, call, list(map(array, tensors)), None if mask is None else mask.numpy(), False
                )
            y, *states = map(torch.from_numpy, found)
    except _NotTakenError:
        return "a call that fastrnn.torch does not take"
    y, states = y.to(dtype), [t.to(dtype) for t in states]
    return y[:, -1] if call.all_outputs else y, y if call.all_outputs else y[:, None], states


def _operations(call: Call) -> int:
    """In the products of the call."""
    B, T, _ = call.x.shape
    return 2 * B * T * sum(w.numel() for w in call.weights[:2])


# ---- Recorded -----------------------------------------------------------------------------------------------------


class _NotTakenError(Exception):
    """The kernels do not take a call after all."""


class _Own:
    """Where `Accelerated` turns for calls that it does not take."""

    def forward(self, input: Any, hx: Any) -> Any:
        raise _NotTakenError


class _Twin(Accelerated, _Own):
    """One call's weights, as a layer of PyTorch's would have them: all that fastrnn.torch asks a layer for."""

    num_layers, batch_first, bidirectional, proj_size, dropout, training = 1, True, False, 0, 0.0, True

    def __init__(self, cell: Cell, weights: list[Tensor]) -> None:
        shown = [value for name, value in cell.options.items() if name in ("reset_after", "nonlinearity")]
        self.mode, self.bias = MODES[cell.kind, tuple(shown)], cell.bias
        self.input_size, self.hidden_size = cell.input_size, cell.hidden_size
        named = dict(zip(cell.shapes(), weights, strict=True))
        self._flat_weights_names, self._flat_weights, self._parameters = list(named), list(named.values()), named

    def parameters(self) -> Any:
        return iter(self._flat_weights)

    def permute_hidden(self, hx: Any, permutation: None) -> Any:
        return hx

    def check_forward_args(self, input: Any, hx: Any, batch_sizes: Any) -> None:
        """Keras's call is checked already."""


def _record(call: Call, tensors: list[Tensor]) -> list[Tensor]:
    """The last output, or all outputs if they are wanted, and the final states, as parts of PyTorch's graph."""
    cell, mask = call.cell, call.mask
    x, states, weights = tensors[0], tensors[1 : 2 + cell.has_c], tensors[2 + cell.has_c :]
    if call.reverse:
        x, mask = x.flip(1), None if mask is None else mask.flip(1)
    hx = tuple(t[None] for t in states) if cell.has_c else states[0][None]
    masked = {} if mask is None else {"mask": mask, "masked_output": "hold" if call.hold else "zero"}
    y, state = _Twin(cell, _as_ours(cell, weights)).forward(x, hx, **masked)
    finals = [t[0] for t in state] if cell.has_c else [state[0]]
    return [y if call.all_outputs else y[:, -1], *finals]


def _as_ours(cell: Cell, weights: list[Tensor]) -> list[Tensor]:
    """Keras's weights as PyTorch's: transposed, with our order of gates and two biases."""
    kernel, recurrent_kernel, *biases = weights
    found = [kernel.t(), recurrent_kernel.t()]
    for bias in biases:
        found += bias.unbind() if bias.dim() == 2 else (bias, torch.zeros_like(bias))
    if cell.keras.gates != cell.gates:
        blocks = [w.chunk(len(cell.gates)) for w in found]
        found = [torch.cat([parts[cell.keras.gates.index(gate)] for gate in cell.gates]) for parts in blocks]
    return [w.contiguous() for w in found]
