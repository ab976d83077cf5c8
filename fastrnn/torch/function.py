"""Calls that the kernels take, run: plainly, or as a node of PyTorch's graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastrnn import engines
from fastrnn._core import native
from fastrnn.engines import Engine, memory, threads
from fastrnn.engines.cell import Record, Weights
from fastrnn.frozen import infer
from fastrnn.stack import Stack, at, direction_part, state_to_caller
from fastrnn.torch.calls import DTYPES, Call, array, as_usual, plain
from fastrnn.torch.openmp import make_room
from fastrnn.validate import Arguments

__all__ = ["run"]


def run(call: Call) -> tuple[Tensor, ...]:
    """y, h and, for an LSTM, c; part of the graph if PyTorch records one."""
    tensors = (call.x, call.h0, call.c0, *call.weights)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        form = call._replace(x=None, h0=None, c0=None, weights=())  # tensors are the graph's to keep
        return Recurrence.apply(form, *tensors)
    with _ThreadsFor(call):
        return _forward(engines.current(), call, tensors)[0] if call.dropout else _infer(engines.current(), call)


class Recurrence(torch.autograd.Function):
    """A call as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call, ctx.engine, ctx.count = call, engines.current(), len(tensors)
        with _ThreadsFor(call):
            results, tape = _forward(ctx.engine, call, tensors)
        ctx.watch = _version_counter(results[0])
        ctx.version = ctx.watch._version
        ctx.save_for_backward(*tensors, *tape.outputs, *tape.noises, *tape.gates, *tape.cells)
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *dresults: Tensor | None) -> tuple[Tensor | None, ...]:
        call, saved, needed = ctx.call, ctx.saved_tensors, ctx.needs_input_grad[1:]
        tensors, tape = saved[: ctx.count], _Tape.split(call.stack, list(saved[ctx.count :]))
        # PyTorch allows a caller to change y in place, where it does not need y itself.
        changed = ctx.watch._version != ctx.version
        usual = as_usual() and all(d is None or plain(d, tensors[0].dtype) for d in dresults)
        if torch.is_grad_enabled() or changed or not usual:
            return None, *_differentiate_pytorch(call, tensors, tape.noises, dresults, needed)
        with _ThreadsFor(call):
            gradients = _backward(ctx.engine, call, tensors, tape, dresults, needed[0])
        return None, *(d if wanted else None for d, wanted in zip(gradients, needed, strict=True))


class _Tape(NamedTuple):
    """What backward needs of a forward run besides its arguments."""

    outputs: list[Tensor]  # (T, B, D*O) of each layer
    noises: list[Tensor]  # dropout's factors between layers, laid out as PyTorch's; none without dropout
    gates: list[Tensor | None]  # the `Record` of each layer and direction
    cells: list[Tensor | None]

    @classmethod
    def split(cls, stack: Stack, parts: list[Any]) -> _Tape:
        """The tape of all its parts in a row."""
        L, LD = len(stack.cells), len(stack.cells) * stack.directions
        return cls(parts[:L], parts[L : -2 * LD], parts[-2 * LD : -LD], parts[-LD:])


class _ThreadsFor:
    """As many threads as PyTorch would use, and room for them, while a call runs."""

    __slots__ = ("before", "operations")

    def __init__(self, call: Call) -> None:
        self.operations = call.operations

    def __enter__(self) -> None:
        count = min(torch.get_num_threads(), threads.MAX_THREADS)
        make_room(self.operations, count)
        self.before = native.set_own_threads(count)

    def __exit__(self, *_: object) -> None:
        native.set_own_threads(self.before)


EMPTY = {dtype: torch.empty(0, dtype=dtype, device="cpu") for dtype in DTYPES}


def _version_counter(t: Tensor) -> Tensor:
    """A tensor that shares the version counter of `t`, but does not keep its memory."""
    counter = t.detach()
    counter.data = EMPTY[t.dtype]
    return counter


# ---- By the kernels -----------------------------------------------------------------------------------------------


def _infer(engine: Engine, call: Call) -> tuple[Tensor, ...]:
    stack, packing = call.stack, call.packing
    x = _time_major(call, call.x)
    h0, c0 = _states(stack, call.rows(x), call.h0, call.c0)
    lengths, order, starts = (None, None, None) if packing is None else (packing.lengths, packing.order, packing.starts)
    prepared = [
        engine.prepare(stack.cells[k // stack.directions], w) for k, w in enumerate(_split(stack, call.weights))
    ]
    args = Arguments(x, h0, c0, lengths, order, None, call.batched, call.h0 is None, starts)
    y, state = infer(stack, engine, prepared, args)
    return _results(y if packing is None else y[:, 0], state)


def _forward(engine: Engine, call: Call, tensors: Sequence[Any]) -> tuple[tuple[Tensor, ...], _Tape]:
    """The results and the tape."""
    stack = call.stack
    x, h0, c0, *weights = tensors
    below, split = _time_major(call, x), _split(stack, weights)
    (T, B), D = below.shape[:2], stack.directions
    h, c = _states(stack, call.rows(below), h0, c0)
    h_n, c_n = np.empty_like(h), None if c is None else np.empty_like(c)
    tape, y = _Tape([], [], [], []), below
    for layer, cell in enumerate(stack.cells):
        if layer > 0:
            below = y
            if call.dropout:
                tape.noises.append(_noise(call, y))
                below = y * array(tape.noises[-1])
        last = layer == len(stack.cells) - 1
        y = stack.empty(T, B, stack.output_size) if last else memory.empty((T, B, stack.output_size), stack.dtype)
        calls = []
        for d in range(D):
            k = layer * D + d
            record = cell.new_record(T, B, zeroed=False)  # nobody looks at what lies past a row's end
            calls.append((
                cell, engine.prepare(cell, split[k]), call.steps(d), below, h[k], at(c, k),
                direction_part(y, d, cell.output_size), h_n[k], at(c_n, k), record,
            ))  # fmt: skip
            tape.gates.append(None if record.gates is None else torch.from_numpy(record.gates))
            tape.cells.append(None if record.cells is None else torch.from_numpy(record.cells))
        engine.forward_directions(calls)
        tape.outputs.append(torch.from_numpy(y))
    return _results(call.to_caller(y), state_to_caller(h_n, c_n, call.batched)), tape


def _backward(
    engine: Engine, call: Call, tensors: Sequence[Any], tape: _Tape, dresults: Sequence[Tensor | None], wants_x: bool
) -> list[Tensor | None]:
    """The gradients in `tensors`; without that in x, if it is not wanted."""
    stack = call.stack
    x, h0, c0, *weights = tensors
    x, split = _time_major(call, x), _split(stack, weights)
    (T, B), D, rows = x.shape[:2], stack.directions, call.rows(x)
    h, c = _states(stack, rows, h0, c0)
    dh_n, dc_n = _states(stack, rows, *dresults[1:])
    dh, dc = np.empty_like(h), None if c is None else np.empty_like(c)
    dweights = [memory.zeros(w.shape, stack.dtype) for w in weights]
    dsplit = _fields(stack, dweights)
    dy = None if dresults[0] is None else _time_major(call, dresults[0])
    dx: NDArray | None = None
    for layer in reversed(range(len(stack.cells))):
        cell = stack.cells[layer]
        noise = array(tape.noises[layer - 1]) if layer > 0 and call.dropout else None
        below = x if layer == 0 else array(tape.outputs[layer - 1])
        below = below if noise is None else below * noise
        dx = stack.empty(T, B, cell.input_size) if layer > 0 or wants_x else None
        y = array(tape.outputs[layer])
        for d in range(D):
            k = layer * D + d
            gates, cells = tape.gates[k], tape.cells[k]
            record = Record(None if gates is None else array(gates), None if cells is None else array(cells))
            engine.backward(
                cell, engine.prepare_backward(cell, split[k]), call.steps(d), below, h[k], at(c, k),
                direction_part(y, d, cell.output_size), record,
                None if dy is None else direction_part(dy, d, cell.output_size), dh_n[k], at(dc_n, k), dx, dh[k],
                at(dc, k), dsplit[k], d > 0,
            )  # fmt: skip
        dy = dx if noise is None or dx is None else dx * noise
    dstate = state_to_caller(dh, dc, call.batched)
    found = [None if dx is None else call.to_caller(dx), *(dstate if stack.has_c else (dstate, None)), *dweights]
    return [None if a is None else torch.from_numpy(a) for a in found]


def _results(y: NDArray, state: Any) -> tuple[Tensor, ...]:
    """y and the parts of a state as tensors."""
    from_numpy = torch.from_numpy
    if isinstance(state, tuple):
        return from_numpy(y), from_numpy(state[0]), from_numpy(state[1])
    return from_numpy(y), from_numpy(state)


def _time_major(call: Call, t: Tensor) -> NDArray:
    """A tensor in the layout of x as (T, B, .), the last axis contiguous."""
    return call.time_major(array(t if t.stride(-1) == 1 else t.contiguous()))


def _states(stack: Stack, B: int, h: Tensor | None, c: Tensor | None = None) -> tuple[NDArray, NDArray | None]:
    """h (L*D, B, O) and, for an LSTM, c (L*D, B, H), contiguous; zeros for None."""
    h_shape, c_shape = stack.state_shapes(B)
    return _state(h, h_shape, stack.dtype), _state(c, c_shape, stack.dtype) if stack.has_c else None


def _state(t: Tensor | None, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    return np.zeros(shape, dtype) if t is None else array(t.contiguous()).reshape(shape)


def _split(stack: Stack, weights: Sequence[Tensor]) -> list[Weights]:
    """The parameters of each layer and direction, contiguous."""
    return _fields(stack, [array(w.contiguous()) for w in weights])


def _fields(stack: Stack, flat: Sequence[NDArray]) -> list[Weights]:
    """Flat weights, or their gradients, by layer and direction."""
    bias, projected = stack.cells[0].bias, bool(stack.cells[0].proj_size)
    size = 2 + 2 * bias + projected
    found = []
    for start in range(0, len(flat), size):
        w = flat[start : start + size]
        b_ih, b_hh = w[2:4] if bias else (None, None)
        found.append(Weights(w[0], w[1], b_ih, b_hh, w[-1] if projected else None, None))
    return found


# ---- Dropout ------------------------------------------------------------------------------------------------------


def _noise(call: Call, y: NDArray) -> Tensor:
    """What dropout multiplies y by: PyTorch's own numbers, in the order in which its layers draw them."""
    return torch.nn.functional.dropout(torch.from_numpy(np.ones(y.shape, y.dtype)), call.dropout)


# ---- By PyTorch ---------------------------------------------------------------------------------------------------


def _differentiate_pytorch(
    call: Call, tensors: Sequence[Any], noises: Sequence[Tensor], dresults: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients once more by PyTorch's own layers; they can be differentiated again if PyTorch's can."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Of aliases: where h0 depends on x, say, the gradient in x is not to include what comes to it through h0.
        aliases = [None if t is None else t.view_as(t) for t in tensors]
        results = _run_pytorch(call, aliases, noises)
        reached, cotangents = zip(
            *((r, d) for r, d in zip(results, dresults, strict=True) if d is not None), strict=True
        )
        wanted = [alias for alias, need in zip(aliases, needed, strict=True) if need]
        found = iter(torch.autograd.grad(reached, wanted, cotangents, create_graph=create_graph, allow_unused=True))
    return tuple(next(found) if need else None for need in needed)


def _run_pytorch(call: Call, tensors: Sequence[Any], noises: Sequence[Tensor]) -> list[Tensor]:
    """The results of a call, computed by PyTorch layer by layer, with dropout's factors as they were drawn."""
    stack, packing, batched = call.stack, call.packing, call.batched
    x, h0, c0, *weights = tensors
    x = x if packing is not None else _swapped(stack, x) if batched else x.unsqueeze(1)
    shapes = stack.state_shapes(x.shape[1] if packing is None else packing.B)[: 2 if stack.has_c else 1]
    states = [x.new_zeros(shape) if t is None else t.view(shape) for t, shape in zip((h0, c0), shapes, strict=False)]
    cell, D, size = stack.cells[0], stack.directions, len(weights) // len(stack.cells)
    function = getattr(torch._VF, cell.kind if cell.kind != "rnn" else f"rnn_{cell.nonlinearity}")
    finals = []
    for layer in range(len(stack.cells)):
        x = x * noises[layer - 1].view_as(x) if layer > 0 and noises else x
        hx = [t[layer * D : (layer + 1) * D] for t in states]
        given = [x] if packing is None else [x, packing.batch_sizes]
        own = weights[layer * size : (layer + 1) * size]
        options = [cell.bias, 1, 0.0, True, D == 2] + ([False] if packing is None else [])
        x, *final = function(*given, hx if stack.has_c else hx[0], own, *options)
        finals.append(final)
    state = [torch.cat(parts) for parts in zip(*finals, strict=True)]
    if packing is not None:
        return [x, *state]
    return [_swapped(stack, x), *state] if batched else [t.squeeze(1) for t in (x, *state)]


def _swapped(stack: Stack, t: Tensor) -> Tensor:
    """From the caller's layout to time-major, or back."""
    return t.transpose(0, 1) if stack.batch_first else t
