"""Training in less memory: a run is cut into segments of time, and what these record is computed a second time.

`forward` records nothing and keeps the state before each segment. `backward` takes the segments from the one that ran
last to the first: it runs the segment again, now with a record, differentiates it, and drops the record. So there is
the record of one segment at a time, for the price of one more forward run.

Layers that all run forwards are cut together, and nothing is kept of what lies between them. A reversed direction needs
all of the layer below before it begins. So the layers of a stack that has one are cut one by one, each direction by
itself, and the outputs of all layers but the last are kept whole.

With n steps in a segment there are T/n states and n steps of a record: both together are the least where n is the root
of T times a state's size over that of a step's record (T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training deep nets with
sublinear memory cost", 2016; of recurrent layers A. Gruslys, R. Munos, I. Danihelka, M. Lanctot, A. Graves,
"Memory-efficient backpropagation through time", NIPS 2016). It is rounded to where the engine's sums over steps may be
cut, so that the gradients are the same, in the packed engine to the bit.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastrnn import run
from fastrnn.arguments import Arguments
from fastrnn.engines import Engine, memory
from fastrnn.engines.cell import Cell
from fastrnn.engines.seam import Weights
from fastrnn.noise import Noise, masked
from fastrnn.stack import Stack, at, direction_part

__all__ = ["Keep", "Kept", "backward", "checked_keep", "forward", "whole"]

Keep: TypeAlias = "str | int"
"""What a tape keeps: "all", "states" or the states every so many steps."""

States: TypeAlias = "list[tuple[NDArray, NDArray | None]]"
"""h and c of a strand before each of its segments, in running order."""


class Kept(NamedTuple):
    """What a forward run in segments keeps for `backward` besides its arguments."""

    num_steps: int  # of a segment
    between: list[NDArray]  # (T, B, D*O), the output of each level but the last
    drawn: list[Any]  # by dropout, for each layer but the last; empty without dropout
    states: list[States]  # of each strand


class Strand(NamedTuple):
    """What is cut in time together: a stack that runs forwards, or one direction of a layer."""

    stack: Stack
    cells: slice  # of the whole stack's


class Pass(NamedTuple):
    """What every run of a strand needs, over whichever segment."""

    engine: Engine
    args: Arguments  # of the whole stack's run
    weights: list[Weights]  # likewise
    dropout: run.Dropout | None
    drawn: list[Any]
    noise: Noise | None
    num_steps: int  # of a segment


def checked_keep(name: str, keep: Any) -> Keep:
    """Check the argument that says what a tape keeps."""
    if isinstance(keep, str) and keep in ("all", "states"):
        return keep
    expected = f'{name}: expected "all", "states" or a number of steps of at least 1, got '
    if isinstance(keep, str):
        raise ValueError(f"{expected}{keep!r}")
    try:
        n = operator.index(keep)
    except TypeError:
        raise TypeError(expected + type(keep).__name__) from None
    if isinstance(keep, bool | np.bool_):
        raise TypeError(expected + "a bool")
    if n < 1:
        raise ValueError(f"{expected}{n}")
    return n


def forward(
    stack: Stack, engine: Engine, args: Arguments, weights: list[Weights], keep: Keep,
    dropout: run.Dropout | None = None, noise: Noise | None = None,
) -> tuple[NDArray, NDArray, NDArray | None, run.Kept | Kept]:  # fmt: skip
    """As `run.forward`; what is kept is what `keep` says, or all if there would be one segment only."""
    n = _num_steps(stack, engine, args, keep)
    if n is None:
        return run.forward(stack, engine, args, weights, dropout, noise=noise)
    (rows, B), levels = args.x.shape[:2], _levels(stack)
    y = stack.empty(rows, B, stack.output_size)
    h_n, c_n = np.empty_like(args.h0), None if args.c0 is None else np.empty_like(args.c0)
    drawn = [] if dropout is None else [dropout.draw(y.shape) for _ in range(stack.num_layers - 1)]
    kept = Kept(n, [], drawn, [])
    shared = Pass(engine, args, weights, dropout, drawn, noise, n)
    for k, level in enumerate(levels):
        below, above = _read(k, stack, shared, kept), y
        if k < len(levels) - 1:
            above = memory.empty(y.shape, stack.dtype)
            kept.between.append(above)
        for d, strand in enumerate(level):
            part = direction_part(above, d, strand.stack.output_size)
            states, h_n[strand.cells], c = _run(strand, shared, below, part)
            if c_n is not None:
                c_n[strand.cells] = c
            kept.states.append(states)
    return y, h_n, c_n, kept


def backward(
    stack: Stack, engine: Engine, args: Arguments, weights: list[Weights], kept: run.Kept | Kept, dy: NDArray | None,
    dh_n: NDArray, dc_n: NDArray | None, dropout: run.Dropout | None = None, wants_x: bool = True,
    noise: Noise | None = None,
) -> tuple[NDArray | None, NDArray, NDArray | None, list[Weights]]:  # fmt: skip
    """As `run.backward`, of a run of `forward`."""
    if isinstance(kept, run.Kept):
        return run.backward(stack, engine, args, weights, kept, dy, dh_n, dc_n, dropout, wants_x, noise)
    (rows, B), levels, states = args.x.shape[:2], _levels(stack), list(kept.states)
    dh0, dc0 = np.empty_like(args.h0), None if args.c0 is None else np.empty_like(args.c0)
    dweights, dx = run.gradients(stack), None
    shared = Pass(engine, args, weights, dropout, kept.drawn, noise, kept.num_steps)
    for k in reversed(range(len(levels))):
        below, dx = _read(k, stack, shared, kept), None
        if k > 0:
            dx = memory.empty(below.shape, stack.dtype)
        elif wants_x:
            dx = stack.empty(rows, B, stack.cells[0].input_size)
        of_level = [states.pop() for _ in levels[k]][::-1]
        for d, strand in enumerate(levels[k]):
            part = None if dy is None else direction_part(dy, d, strand.stack.output_size)
            dstate = dh_n[strand.cells], at(dc_n, strand.cells)
            into = run.Into(dx, d > 0, dweights[strand.cells], False)
            dh0[strand.cells], dc = _differentiate(strand, shared, below, of_level[d], part, dstate, into)
            if dc0 is not None:
                dc0[strand.cells] = dc
        if noise is not None and dx is not None and _apart(stack):
            masked(dx, noise.input_mask(k, dx, args), dx)
        if k > 0 and dx is not None:
            dy = dx if dropout is None else dropout.apply(dx, kept.drawn[k - 1])
    return dx, dh0, dc0, dweights


def whole(
    stack: Stack, engine: Engine, args: Arguments, weights: list[Weights], kept: run.Kept | Kept,
    dropout: run.Dropout | None, noise: Noise | None,
) -> run.Kept:  # fmt: skip
    """All that a run of `forward` did not keep, by one more run if need be."""
    if isinstance(kept, run.Kept):
        return kept
    return run.forward(stack, engine, args, weights, dropout, noise=noise, drawn=kept.drawn)[-1]


# ---- A strand, segment by segment ----------------------------------------------------------------------------------


def _run(
    strand: Strand, shared: Pass, below: NDArray, y: NDArray
) -> tuple[States, NDArray, NDArray | None]:  # fmt: skip
    """Run a strand, which reads `below` and writes y; return the states before each segment, and the final one."""
    args, noise, states = _arguments(strand, shared, below), _noise(strand, shared), []
    ready, h, c = Ready(shared.engine), args.h0, args.c0
    for start, count in _parts(strand, args, shared.num_steps):
        h, c = _cut(strand, args, start + count, h, c)
        states.append((h, c))
        _, h, c, _ = run.forward(
            strand.stack, ready, args.part(start, count)._replace(h0=h, c0=c), shared.weights[strand.cells],
            shared.dropout, y[args.rows(start, count)], noise, drawn=shared.drawn, recorded=False,
        )  # fmt: skip
    return states, h, c


def _differentiate(
    strand: Strand, shared: Pass, below: NDArray, states: States, dy: NDArray | None,
    dstate: tuple[NDArray, NDArray | None], into: run.Into,
) -> tuple[NDArray, NDArray | None]:  # fmt: skip
    """Differentiate what `_run` ran; return the gradient in its initial state."""
    args, noise, weights = _arguments(strand, shared, below), _noise(strand, shared), shared.weights[strand.cells]
    ready, (dh, dc), size = Ready(shared.engine), dstate, strand.stack.output_size
    parts = list(_parts(strand, args, shared.num_steps))
    for k in reversed(range(len(parts))):
        (start, count), (h, c) = parts[k], states[k]
        part, rows = args.part(start, count)._replace(h0=h, c0=c), args.rows(start, count)
        y = memory.empty((*part.x.shape[:2], size), part.x.dtype)
        *_, kept = run.forward(strand.stack, ready, part, weights, shared.dropout, y, noise, drawn=shared.drawn)
        _, dh, dc, _ = run.backward(
            strand.stack, ready, part, weights, kept, None if dy is None else dy[rows], dh, dc, shared.dropout,
            noise=noise, into=into._replace(dx=None if into.dx is None else into.dx[rows]),
        )  # fmt: skip
        dh, dc = _cut(strand, args, start + count, dh, dc)
        into = into._replace(adds_to_dweights=True)
        del kept, y  # their memory is the next segment's
    return dh, dc


class Ready:
    """An engine that prepares the weights of a strand once for all segments."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.operations, self.stepper = engine.name, engine.operations, engine.stepper
        self.forward, self.backward, self.backward_steps = engine.forward, engine.backward, engine.backward_steps
        self._prepare = engine.prepare
        self._prepared: dict[tuple[int, bool], Any] = {}

    def prepare(self, cell: Cell, weights: Weights, backward: bool = False) -> Any:
        """See `fastrnn.engines.Engine.prepare`."""
        key = id(weights), backward
        if key not in self._prepared:
            self._prepared[key] = self._prepare(cell, weights, backward)
        return self._prepared[key]


def _levels(stack: Stack) -> list[list[Strand]]:
    """The strands of a stack: those of a level read what the level below gives, and each writes a part of the output.

    With a reversed direction a layer is a level.
    """
    D, cells = len(stack.directions), stack.cells
    if not any(stack.directions):
        return [[Strand(stack, slice(0, len(cells)))]]
    return [
        [
            Strand(replace(stack, cells=(cells[k + d],), directions=(reverse,)), slice(k + d, k + d + 1))
            for d, reverse in enumerate(stack.directions)
        ]
        for k in range(0, len(cells), D)
    ]


def _apart(stack: Stack) -> bool:
    """Whether a strand is less than the stack. Then what a layer reads loses values here, and not within its run."""
    return any(stack.directions) and len(stack.cells) > 1


def _num_steps(stack: Stack, engine: Engine, args: Arguments, keep: Keep) -> int | None:
    """How many steps a segment has; None where the run is not cut."""
    B, longest = args.h0.shape[1], _longest(args)
    if keep == "all" or longest == 0:
        return None
    tops = [strand.stack.cells for level in _levels(stack) for strand in level]
    records = [len(cells) - 1 + sum(cell.kept_values for cell in cells) for cells in tops]
    if not any(records):  # a tape has nothing but the outputs of layers
        return None
    unit = max(engine.backward_steps(cell, B) for cell in set(stack.cells))
    if isinstance(keep, int):
        n = -(-keep // unit) * unit
    else:
        state = sum(cell.output_size + cell.hidden_size * cell.has_c for cell in stack.cells)
        record = max(sum(cell.kept_values + cell.output_size for cell in cells) for cells in tops)
        n = unit * max(1, round(math.sqrt(longest * state / record) / unit))
    return n if n < longest else None


def _longest(args: Arguments) -> int:
    if args.h0.shape[1] == 0:
        return 0
    return args.num_steps if args.lengths is None else int(args.lengths.max())


def _parts(strand: Strand, args: Arguments, n: int) -> Iterator[tuple[int, int]]:
    """The first step and the number of steps of each segment, in running order.

    They are cut every n steps, counted from the one that runs last. All steps after the end of the longest sequence are
    in one segment with it.
    """
    longest, reverse = _longest(args), strand.stack.directions[0]
    cuts = list(range(0, longest, n)) if reverse else [0, *range((longest - 1) % n + 1, longest, n)]
    parts = [(a, b - a) for a, b in zip(cuts, [*cuts[1:], args.num_steps], strict=True)]
    return reversed(parts) if reverse else iter(parts)


def _arguments(strand: Strand, shared: Pass, below: NDArray) -> Arguments:
    """The arguments of a strand's run, which reads `below`."""
    args = shared.args
    return args._replace(x=below, h0=args.h0[strand.cells], c0=at(args.c0, strand.cells))


def _noise(strand: Strand, shared: Pass) -> Noise | None:
    """What is random in a strand's run. A strand apart reads inputs that have lost some values already."""
    if shared.noise is None or len(strand.stack.cells) == len(shared.weights):
        return shared.noise
    return shared.noise.within(strand.cells.start)


def _read(k: int, stack: Stack, shared: Pass, kept: Kept) -> NDArray:
    """What level k reads."""
    below = shared.args.x
    if k > 0:
        below = kept.between[k - 1]
        below = below if shared.dropout is None else shared.dropout.apply(below, shared.drawn[k - 1])
    noise = shared.noise if _apart(stack) else None
    return masked(below, None if noise is None else noise.input_mask(k, below, shared.args))


def _cut(strand: Strand, args: Arguments, t: int, h: NDArray, c: NDArray | None) -> tuple[NDArray, NDArray | None]:
    """A state, or its gradient, between the segments before and after step t: zero where a reset cuts them apart.

    In a strand that runs forwards the boundary belongs to the segment after it, and the engine sees to it.
    """
    if args.resets is None or not strand.stack.directions[0] or t >= args.num_steps:
        return h, c
    reset = (args.resets[t] != 0) if args.lengths is None else (args.resets[t] != 0) & (t < args.lengths)
    zero = h.dtype.type(0)
    return np.where(reset[:, None], zero, h), None if c is None else np.where(reset[:, None], zero, c)
