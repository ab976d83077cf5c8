"""Calls with a mask: their valid rows are a PackedSequence, which the module runs as any other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastrnn import validate
from fastrnn.masks import ValidRows

__all__ = ["run_masked"]


def run_masked(module: Any, input: Any, hx: Any, mask: Any, masked_output: Any) -> tuple[Tensor, Any]:
    """The call `module(input, hx)` of an RNN, LSTM or GRU, but for the steps where `mask` is false."""
    hold = validate.choice("masked_output", masked_output, ("zero", "hold")) == "hold"
    if not isinstance(input, Tensor) or input.dim() not in (2, 3):
        raise TypeError(f"input: expected with a mask a tensor of 2 or 3 axes, got {_described(input)}")
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
        raise TypeError(f"mask: expected a tensor of booleans, got {_described(mask)}")
    if mask.shape != input.shape[:-1]:
        raise ValueError(f"mask: expected {tuple(input.shape[:-1])}, got {tuple(mask.shape)}")
    if input.dim() == 2:
        B_axis = 0 if module.batch_first else 1
        as_batch = None if hx is None else _each(hx, lambda t: t.unsqueeze(1))
        y, state = run_masked(module, input.unsqueeze(B_axis), as_batch, mask.unsqueeze(B_axis), masked_output)
        return y.squeeze(B_axis), _each(state, lambda t: t.squeeze(1))
    if hx is not None:
        module.check_forward_args(input, hx, None)
    valid = mask.detach().cpu().numpy()
    valid = valid.T if module.batch_first else valid
    if valid.all():
        return module.forward(input, hx)
    D, O = 1 + module.bidirectional, module.proj_size or module.hidden_size
    if hx is None:
        h, c = (input.new_zeros(module.num_layers * D, valid.shape[1], n) for n in (O, module.hidden_size))
        hx = (h, c) if module.mode == "LSTM" else h
    if not valid.any():  # what depends on nothing is part of the graph nevertheless
        nothing = sum(t.flatten()[:0].sum() for t in (input, *module.parameters()))
        return input.new_zeros(*mask.shape, D * O) + nothing, _each(hx, lambda t: t + nothing)

    rows = ValidRows(valid, None, tuple(mask.shape), module.batch_first, (False, True)[:D] if hold else ())
    at = _index(rows.at, input)
    some = _index(rows.order[: np.count_nonzero(rows.lengths)], input)  # a PackedSequence has no empty sequences
    batch_sizes = torch.from_numpy(np.diff(rows.starts, append=len(rows.at)))
    packed = PackedSequence(input.flatten(0, 1).index_select(0, at), batch_sizes)
    (output, *_), final = module.forward(packed, _each(hx, lambda t: t.index_select(1, some)))
    if rows.held is None:
        y = output.new_zeros(valid.size, D * O).index_copy(0, at, output)
    else:
        y = output.reshape(-1, O).index_select(0, _index(rows.held.source, input))
        y = y.index_fill(0, _index(rows.held.nowhere, input), 0)
    finals = iter(final if isinstance(final, tuple) else (final,))

    def with_final(t: Tensor) -> Tensor:
        final = next(finals)
        return t.to(final.dtype).index_copy(1, some, final)  # another dtype under autocast

    return y.reshape(*mask.shape, D * O), _each(hx, with_final)


def _each(state: Any, function: Any) -> Any:
    """(h, c) of an LSTM, h of others, with `function` applied to each."""
    return tuple(map(function, state)) if isinstance(state, tuple) else function(state)


def _index(a: NDArray[np.intp], like: Tensor) -> Tensor:
    return torch.from_numpy(a.astype(np.int64)).to(like.device)


def _described(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
