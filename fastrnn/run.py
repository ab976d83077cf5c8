"""The walk over a stack: runs of all layers and directions, for inference, for training, and back.

Whoever runs a stack calls this: layers, frozen layers, and the bridges to PyTorch and ONNX. Arrays are as engines have
them, y and its gradient (T, B, D*O) or, of a stack of one layer, (T, B, D, O). Their arguments are checked before.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastrnn.arguments import Arguments
from fastrnn.engines import Engine, memory
from fastrnn.engines.seam import BackwardArgs, ForwardArgs, Record, Weights
from fastrnn.noise import Noise, masked
from fastrnn.stack import Stack, at, direction_part

__all__ = ["Dropout", "Into", "Kept", "backward", "forward", "gradients", "infer", "prepare"]

# What lies between the layers of a stack that is not reversed at a time, whatever T is.
CHUNK_BYTES = 1 << 19


class Dropout(Protocol):
    """Dropout between layers. A tape keeps what was drawn; `backward` applies it once more."""

    def draw(self, shape: tuple[int, ...]) -> Any:
        """Draw what becomes of each value of a layer's output of this shape."""

    def apply(self, a: NDArray, drawn: Any, first: int = 0) -> NDArray:
        """Return an output, or a gradient in one, as the draw leaves it: all, or the part from row `first` on."""


class Kept(NamedTuple):
    """What a forward run keeps for `backward` besides its arguments."""

    outputs: list[NDArray]  # (T, B, D*O), each layer's
    drawn: list[Any]  # by dropout, for each layer but the last; empty without dropout
    records: list[Record]  # of each layer and direction; empty if nothing was to be recorded


class Into(NamedTuple):
    """Where `backward` writes gradients, and whether they are added to what is there."""

    dx: NDArray | None  # (T, B, I); None: not wanted
    adds_to_dx: bool
    dweights: list[Weights]
    adds_to_dweights: bool


def prepare(stack: Stack, engine: Engine, weights: list[Weights]) -> list[Any]:
    """The weights of each layer and direction as `infer` and the engine's `stepper` take them."""
    return [engine.prepare(cell, w) for cell, w in zip(stack.cells, weights, strict=True)]


def infer(
    stack: Stack, engine: Engine, prepared: list[Any], args: Arguments, y: NDArray | None = None
) -> tuple[NDArray, NDArray, NDArray | None]:
    """Run all layers and keep nothing; return y, which is written to if it is given, h_n and c_n.

    A stack that is not reversed goes through time in chunks, each through all layers, so that what lies between two
    layers stays small. A reversed direction needs the whole sequence of the layer below first.
    """
    T, B, D, O = args.num_steps, args.h0.shape[1], len(stack.directions), stack.cells[0].output_size
    if y is None:
        y = stack.empty(args.x.shape[0], args.x.shape[1], D * O)
    h, c = args.h0, args.c0
    if not args.state_is_new:
        h, c = h.copy(), None if c is None else c.copy()
    last, chunk = stack.num_layers - 1, max(1, T)
    if last > 0 and not any(stack.directions):
        chunk = min(chunk, max(1, CHUNK_BYTES // max(1, B * O * stack.dtype.itemsize)))
    for start in range(0, T, chunk):
        part, out = args, y
        if chunk < T:
            rows = args.rows(start, chunk)
            part, out = args.part(start, chunk), y[rows]
        below = part.x
        for layer in range(last + 1):
            above = out if layer == last else memory.empty((*below.shape[:2], D * O), stack.dtype)
            engine.forward([
                ForwardArgs(
                    prepared[k], part.steps(stack.directions[d]), below, h[k], at(c, k), direction_part(above, d, O),
                    h[k], at(c, k), None,
                )
                for d, k in enumerate(range(layer * D, layer * D + D))
            ])  # fmt: skip
            below = above
    return y, h, c


def forward(
    stack: Stack, engine: Engine, args: Arguments, weights: list[Weights], dropout: Dropout | None = None,
    y: NDArray | None = None, noise: Noise | None = None, *, drawn: list[Any] | None = None, recorded: bool = True,
) -> tuple[NDArray, NDArray, NDArray | None, Kept]:  # fmt: skip
    """Run all layers for training; return y, which is written to if it is given, h_n, c_n and what is kept.

    A part of a run is given what dropout has drawn for the whole.
    """
    (T, B), D = args.x.shape[:2], len(stack.directions)
    h_n, c_n = np.empty_like(args.h0), None if args.c0 is None else np.empty_like(args.c0)
    y = stack.empty(T, B, stack.output_size) if y is None else y
    below, kept = args.x, Kept([], drawn or [], [])
    for layer in range(stack.num_layers):
        last = layer == stack.num_layers - 1
        above = y if last else memory.empty((T, B, stack.output_size), stack.dtype)
        below = masked(below, None if noise is None else noise.input_mask(layer, below, args))
        runs = []
        for d, reverse in enumerate(stack.directions):
            k = layer * D + d
            cell = stack.cells[k]
            record = memory.new_record(cell, T, B) if recorded else None
            runs.append(ForwardArgs(
                engine.prepare(cell, weights[k]), args.steps(reverse), below, args.h0[k], at(args.c0, k),
                direction_part(above, d, cell.output_size), h_n[k], at(c_n, k), record,
                None if noise is None else noise.steps(k, cell, args),
            ))  # fmt: skip
            kept.records.extend([] if record is None else [record])
        engine.forward(runs)
        kept.outputs.append(above[:])  # the caller may assign to the shape of y itself
        below = above
        if dropout is not None and not last:
            if drawn is None:
                kept.drawn.append(dropout.draw(above.shape))
            below = dropout.apply(above, kept.drawn[layer], args.first_row)
    return y, h_n, c_n, kept


def backward(
    stack: Stack, engine: Engine, args: Arguments, weights: list[Weights], kept: Kept, dy: NDArray | None,
    dh_n: NDArray, dc_n: NDArray | None, dropout: Dropout | None = None, wants_x: bool = True,
    noise: Noise | None = None, *, into: Into | None = None,
) -> tuple[NDArray | None, NDArray, NDArray | None, list[Weights]]:  # fmt: skip
    """Differentiate a run of `forward`; return dx, if it is wanted, dh0, dc0, and the gradients in the weights."""
    (T, B), D, dtype = args.x.shape[:2], len(stack.directions), stack.dtype
    dh0, dc0 = np.empty_like(args.h0), None if args.c0 is None else np.empty_like(args.c0)
    if into is None:
        into = Into(stack.empty(T, B, stack.cells[0].input_size) if wants_x else None, False, gradients(stack), False)
    dx: NDArray | None = None
    for layer in reversed(range(stack.num_layers)):
        below, dx, adds = args.x, into.dx, into.adds_to_dx
        if layer > 0:
            below = _read(layer, args, kept, dropout)
            dx, adds = memory.empty((T, B, stack.cells[layer * D].input_size), dtype), False
        mask = None if noise is None else noise.input_mask(layer, below, args)
        below = masked(below, mask)
        runs = []
        for d, reverse in enumerate(stack.directions):
            k = layer * D + d
            cell = stack.cells[k]
            runs.append(BackwardArgs(
                engine.prepare(cell, weights[k], backward=True), args.steps(reverse), below,
                direction_part(kept.outputs[layer], d, cell.output_size), args.h0[k], at(args.c0, k), kept.records[k],
                None if dy is None else direction_part(dy, d, cell.output_size), dh_n[k], at(dc_n, k), dx,
                adds or d > 0, dh0[k], at(dc0, k), into.dweights[k],
                None if noise is None else noise.steps(k, cell, args), into.adds_to_dweights,
            ))  # fmt: skip
        engine.backward(runs)
        if dx is not None:
            masked(dx, mask, dx)
        if layer > 0 and dx is not None:
            dy = dx if dropout is None else dropout.apply(dx, kept.drawn[layer - 1], args.first_row)
    return dx, dh0, dc0, into.dweights


def gradients(stack: Stack) -> list[Weights]:
    """Room for the gradients in the weights, which is to be written."""
    return [
        Weights(**{field: memory.empty(shape, stack.dtype) for field, (_, shape) in stack.names(k).items()})
        for k in range(len(stack.cells))
    ]


def _read(layer: int, args: Arguments, kept: Kept, dropout: Dropout | None) -> NDArray:
    """What a layer above the lowest has read."""
    below = kept.outputs[layer - 1]
    return below if dropout is None else dropout.apply(below, kept.drawn[layer - 1], args.first_row)
