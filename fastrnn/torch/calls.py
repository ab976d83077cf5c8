"""Which calls the kernels take, and in what form. All others are PyTorch's own, its errors included.

A call is taken only if all of it is recognised: ordinary tensors on the CPU, of the shapes and the dtype that PyTorch
would accept, and nobody who looks on (a tracer, a transform, a mode). So nothing here raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastrnn.engines.cell import CELLS
from fastrnn.engines.seam import Weights
from fastrnn.segments import Keep
from fastrnn.stack import Stack
from fastrnn.torch.kept import Kept
from fastrnn.torch.private import as_usual, flat_weights
from fastrnn.torch.tensors import DTYPES, array, plain

__all__ = ["MODES", "RESET_BEFORE", "Call", "Packing", "described", "layout_of", "recognise", "records"]

# Calls that PyTorch runs faster than the kernels, because they have so few steps. PyTorch's GRU and RNN take a step in
# two products and one operation, which costs less than a node of the graph and packing, or comparing, large weights.
# PyTorch's time over ours, one thread of an AMD EPYC with AVX-512: training an RNN 0.64 to 0.82 at T = 1, 0.85 to 1.03
# at 2, 0.96 to 1.23 at 3, 1.08 to 1.25 at 4; a GRU 0.86 to 1.06 at 1, 1.02 to 1.51 at 2; an LSTM 1.2 to 7 at 1.
# Inference of an RNN of 1,024 units: 0.55 at T = 3.
TRAINED_FROM = {"GRU": 2, "RNN_TANH": 4, "RNN_RELU": 4}  # steps
INFERRED_FROM = {"RNN_TANH": 4, "RNN_RELU": 4}  # steps, if the lowest layer has so many weights:
MANY_WEIGHTS = 1 << 20

MODES = {mode: (cell, options) for cell in CELLS.values() for mode, options in cell.torch.modes.items()}
RESET_BEFORE = "GRU_RESET_BEFORE"  # no mode of PyTorch's: its GRU resets after; Keras has both
MODES[RESET_BEFORE] = CELLS["gru"], {"reset_after": False}


class Packing(NamedTuple):
    """Where the rows of a PackedSequence lie: each step's, one step after another, the longest sequence's first."""

    batch_sizes: Tensor
    B: int
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    order: NDArray[np.int64]


class Call(NamedTuple):
    """A call that the kernels take."""

    recorded: bool  # in a graph
    mode: str  # PyTorch's
    stack: Stack
    places: tuple[int, ...]  # where each field of `Weights` lies among a direction's flat weights; -1: it is None
    dropout: float  # 0 where it does not act
    noises: Sequence[Tensor]  # dropout's factors, if they are drawn already: (T, B, D*O), for all layers but the last
    batched: bool
    packing: Packing | None
    frames: int  # T*B, or the rows of a PackedSequence; one is a single frame
    operations: int  # in the products of a forward run
    kept: Kept
    x: Tensor | None
    h0: Tensor | None
    c0: Tensor | None
    weights: Sequence[Tensor]  # PyTorch's flat weights: `Weights` of each layer and direction, without what is None
    keep: Keep = "all"  # what is kept for the gradients

    def time_major(self, a: NDArray) -> NDArray:
        """An array in the layout of x as engines want it."""
        return self.stack.time_major(a, self.batched) if self.packing is None else a[:, None]

    def to_caller(self, a: NDArray) -> NDArray:
        """The inverse of `time_major`."""
        return self.stack.to_caller(a, self.batched) if self.packing is None else a[:, 0]

    def rows(self, x: NDArray) -> int:
        """B."""
        return x.shape[1] if self.packing is None else self.packing.B


def records() -> bool:
    """Whether PyTorch records a graph. In inference mode it does not, even under enable_grad."""
    return torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def recognise(module: Any, input: Any, hx: Any) -> Call | None:
    """The call `module(input, hx)` of an RNN, LSTM or GRU if the kernels take it, else None."""
    if not as_usual() or _pytorch_is_faster(module, input):
        return None
    packed = isinstance(input, PackedSequence)
    x = input.data if packed else input
    dtype = getattr(x, "dtype", None)
    if dtype not in DTYPES or not plain(x, dtype):
        return None
    stack, places, shapes, operations = described(module, dtype, packed)
    weights, kept = tuple(flat_weights(module)), Kept.of(module)
    if not kept.were_fit(weights, stack):
        if len(weights) != len(shapes):
            return None
        for w, shape in zip(weights, shapes, strict=True):
            if not plain(w, dtype) or w.shape != shape:
                return None
        kept.are_fit(weights, stack)
    if x.dim() not in ((2,) if packed else (2, 3)) or x.shape[-1] != module.input_size or not x.numel():
        return None
    packing, batched = None, packed or x.dim() == 3
    if packed:
        packing = layout_of(input.batch_sizes, len(x))
        if packing is None:
            return None
        B = packing.B
    else:
        B = x.shape[0 if module.batch_first else 1] if batched else 1
    states: Any = (None, None)
    if hx is not None:
        states = hx if stack.has_c else (hx,)
        if not _states_fit(stack, states, B, batched, dtype):
            return None
        if packed:
            hx = module.permute_hidden(hx, input.sorted_indices)
            states = hx if stack.has_c else (hx,)
        states = (*states, None)
    h0, c0, *_ = states
    recorded = records() and any(t is not None and t.requires_grad for t in (x, h0, c0, *weights))
    frames = x.numel() // module.input_size
    dropout = module.dropout if module.training and module.num_layers > 1 else 0.0
    return Call(
        recorded, module.mode, stack, places, dropout, (), batched, packing, frames, frames * operations, kept,
        x, h0, c0, weights, module._keep,
    )  # fmt: skip


def _pytorch_is_faster(module: Any, input: Any) -> bool:
    """Whether a call is one of those that are PyTorch's because they are so short.

    This is asked before a call is checked, for to check it takes longer than what there is to win.
    """
    if module.mode == "LSTM" or (module._frozen is not None and module._frozen.has_fewer_bits):
        return False
    recorded = records() and any(w is not None and w.requires_grad for w in flat_weights(module))
    steps = (TRAINED_FROM if recorded else INFERRED_FROM).get(module.mode, 0)
    if isinstance(input, PackedSequence):
        return recorded and len(input.batch_sizes) < steps
    if not isinstance(input, Tensor) or input.dim() not in (2, 3):
        return False
    if input.shape[1 if module.batch_first and input.dim() == 3 else 0] >= steps:
        return False
    many = module.hidden_size * (module.input_size + module.hidden_size) >= MANY_WEIGHTS
    return recorded or (many and input.numel() > module.input_size)


def described(
    module: Any, dtype: torch.dtype, packed: bool = False
) -> tuple[Stack, tuple[int, ...], tuple[tuple[int, ...], ...], int]:
    """A module's shape in our words, `Call.places`, the shapes of its flat weights, and operations a row and step."""
    return _stack(
        module.mode, module.input_size, module.hidden_size, module.num_layers, module.bias, module.batch_first,
        module.bidirectional, module.proj_size, packed, dtype,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _stack(
    mode: str, I: int, H: int, L: int, bias: bool, batch_first: bool, bidirectional: bool, P: int, packed: bool,
    dtype: torch.dtype,
) -> tuple[Stack, tuple[int, ...], tuple[tuple[int, ...], ...], int]:  # fmt: skip
    kind, options = MODES[mode]
    bottom = kind(I, H, DTYPES[dtype], bias, **options, **({"proj_size": P} if P else {}))
    stack = Stack.of(bottom, L, (False, True) if bidirectional else (False,), batch_first and not packed)
    shapes = tuple(shape for cell in stack.cells for shape in cell.shapes().values())
    fields = list(bottom.shapes())
    places = tuple(fields.index(field) if field in fields else -1 for field in Weights._fields)
    return stack, places, shapes, 2 * sum(shape[0] * shape[1] for shape in shapes if len(shape) == 2)


def _states_fit(stack: Stack, states: Any, B: int, batched: bool, dtype: torch.dtype) -> bool:
    """Whether an initial state is one that PyTorch would accept."""
    if not isinstance(states, (tuple, list)) or len(states) != (2 if stack.has_c else 1):
        return False
    for t, (LD, _, size) in zip(states, stack.state_shapes(B), strict=False):
        if not plain(t, dtype) or t.shape != ((LD, B, size) if batched else (LD, size)):
            return False
    return True


def layout_of(batch_sizes: Any, rows: int) -> Packing | None:
    """The layout of a PackedSequence; None if it is not a sound one."""
    if type(batch_sizes) is not Tensor or batch_sizes.dtype is not torch.int64 or batch_sizes.dim() != 1:
        return None
    sizes = array(batch_sizes)
    B = int(sizes[0]) if len(sizes) else 0
    if B <= 0 or sizes[-1] <= 0 or (np.diff(sizes) > 0).any() or sizes.sum() != rows:
        return None
    lengths = np.searchsorted(-sizes, -np.arange(B), side="left")
    return Packing(batch_sizes, B, np.cumsum(sizes) - sizes, lengths, np.arange(B))
