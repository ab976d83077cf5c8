"""Calls that the kernels take, run: plainly, or as a node of PyTorch's graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastrnn import engines, segments
from fastrnn import run as walk
from fastrnn._core import native
from fastrnn.arguments import Arguments
from fastrnn.engines import Engine, threads
from fastrnn.engines.seam import Record, Weights
from fastrnn.stack import Stack, state_to_caller
from fastrnn.torch.calls import RESET_BEFORE, Call
from fastrnn.torch.heap import keep_freed_memory
from fastrnn.torch.kept import Ready, by_direction
from fastrnn.torch.openmp import make_room
from fastrnn.torch.private import as_usual
from fastrnn.torch.tensors import DTYPES, array, plain

__all__ = [
    "PACKING", "ThreadsFor", "backward", "differentiate_pytorch", "forward", "run", "run_pytorch", "step", "time_major",
]  # fmt: skip

PACKING, UNPACKED = engines.named("packed", "packed"), engines.named("blas", "blas")

# Packed weights are kept for short calls, of which packing takes a large part (of an LSTM of 512 units 60% of the time
# of 8 frames, 6% of that of 256), and where there are no more than a processor's caches may hold.
KEPT_FRAMES, KEPT_BYTES = 256, 64 << 20

CONTIGUOUS = torch.contiguous_format

Kept: TypeAlias = "walk.Kept | segments.Kept"


def run(call: Call) -> tuple[Tensor, ...]:
    """y, h and, for an LSTM, c; part of the graph if PyTorch records one."""
    tensors = (call.x, call.h0, call.c0, *call.weights)
    if call.recorded:
        if call.kept.narrow is not None:
            raise RuntimeError(
                "frozen: expected a call that needs no gradients, as weights are kept in fewer bits, got an input or a "
                "state that requires one; call under torch.no_grad() or torch.inference_mode()"
            )
        form = call._replace(x=None, h0=None, c0=None, weights=())  # tensors are the graph's to keep
        return Recurrence.apply(form, *tensors)
    engine = _engine_for(call)
    if engine is UNPACKED and _is_frame(call):
        return _frame(call)
    with ThreadsFor(call.frames, call.operations):
        return _forward(engine, call, tensors)[0] if call.dropout or call.noises else _infer(engine, call)


class Recurrence(torch.autograd.Function):
    """A call as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        keep_freed_memory()
        ctx.call, ctx.engine, ctx.count = call, _engine_for(call), len(tensors)
        with ThreadsFor(call.frames, call.operations):
            results, kept = _forward(ctx.engine, call, tensors)
        ctx.sizes = _sizes(kept)
        ctx.watch = _version_counter(results[0])
        ctx.version = ctx.watch._version
        ctx.save_for_backward(*tensors, *_to_tensors(kept))
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *dresults: Tensor | None) -> tuple[Tensor | None, ...]:
        call, saved, needed = ctx.call, ctx.saved_tensors, ctx.needs_input_grad[1:]
        tensors, kept = saved[: ctx.count], saved[ctx.count :]
        # PyTorch allows a caller to change y in place, where it does not need y itself.
        changed = ctx.sizes is None and ctx.watch._version != ctx.version
        usual = as_usual() and all(d is None or plain(d, tensors[0].dtype) for d in dresults)
        if torch.is_grad_enabled() or changed or not usual:
            noises = _tensors(_to_arrays(call.stack, kept, ctx.sizes).drawn)
            return None, *differentiate_pytorch(call, tensors, noises, dresults, needed)
        with ThreadsFor(call.frames, call.operations):
            arrays = _to_arrays(call.stack, kept, ctx.sizes)
            gradients = _backward(ctx.engine, call, tensors, arrays, dresults, needed[0])
        return None, *(d if wanted else None for d, wanted in zip(gradients, needed, strict=True))


def _to_tensors(kept: Kept) -> list[Tensor | None]:
    """What a forward run has kept, in a row, as tensors: PyTorch may store them elsewhere meanwhile."""
    if isinstance(kept, segments.Kept):
        return _tensors([*kept.between, *kept.drawn, *(a for strand in kept.states for state in strand for a in state)])
    gates, cells = [record.gates for record in kept.records], [record.cells for record in kept.records]
    return _tensors([*kept.outputs, *kept.drawn, *gates, *cells])


def _sizes(kept: Kept) -> tuple[int, int, int, list[int]] | None:
    """What `_to_arrays` has to know of a run in segments: their steps, and how many there are of what."""
    if not isinstance(kept, segments.Kept):
        return None
    return kept.num_steps, len(kept.between), len(kept.drawn), list(map(len, kept.states))


def _to_arrays(stack: Stack, tensors: Sequence[Any], sizes: tuple[int, int, int, list[int]] | None) -> Kept:
    """The inverse of `_to_tensors`."""
    arrays: list[Any] = [None if t is None else array(t) for t in tensors]
    if sizes is not None:
        num_steps, between, drawn, counts = sizes
        others = iter(arrays[between + drawn :])
        states = [[(next(others), next(others)) for _ in range(count)] for count in counts]
        return segments.Kept(num_steps, arrays[:between], arrays[between : between + drawn], states)
    L, LD = stack.num_layers, len(stack.cells)
    records = list(map(Record, arrays[-2 * LD : -LD], arrays[-LD:]))
    return walk.Kept(arrays[:L], arrays[L : -2 * LD], records)


class ThreadsFor:
    """As many threads as PyTorch would use, and room for them, while a call runs.

    A single frame runs on one: BLAS may round differently where several share it.
    """

    __slots__ = ("before", "frames", "operations")

    def __init__(self, frames: int, operations: int) -> None:
        self.frames, self.operations = frames, operations

    def __enter__(self) -> None:
        count = 1 if self.frames == 1 else min(torch.get_num_threads(), threads.MAX_THREADS)
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


def _engine_for(call: Call) -> Engine:
    """The thread's engine; for a single frame one that takes weights as they are, instead of one that packs them."""
    engine = engines.current()
    return UNPACKED if call.frames == 1 and engine is PACKING and not call.kept.final else engine


def _is_frame(call: Call) -> bool:
    """Whether a call is one step of one sequence through layers that run forwards, and no more than that."""
    usual = call.packing is None and not (call.dropout or call.noises) and call.stack.directions == (False,)
    return usual and call.frames == 1 and all(map(Tensor.is_contiguous, call.weights))


def _frame(call: Call) -> tuple[Tensor, ...]:
    """Run it, without a graph, with the weights where they are."""
    assert call.x is not None
    x, h0, c0 = (None if t is None else t.contiguous() for t in (call.x, call.h0, call.c0))
    frame = call.kept.frame(UNPACKED, call.stack, call.places, call.weights)
    return step(frame, x, h0, c0, call.batched, 1)


def step(
    frame: native.NativeFrame, x: Tensor, h0: Tensor | None, c0: Tensor | None, batched: bool, threads: int
) -> tuple[Tensor, ...]:
    """y, h and, for an LSTM, c after one step of one sequence. Tensors are contiguous; no state is zeros."""
    h, c = 0 if h0 is None else h0.data_ptr(), 0 if c0 is None else c0.data_ptr()
    return tuple(map(torch.from_numpy, frame(x.data_ptr(), h, c, batched, threads)))


def forward(call: Call, tensors: Sequence[Any]) -> tuple[tuple[Tensor, ...], walk.Kept]:
    """The results of a call with these tensors, and all that is kept for `backward`, whatever the call says."""
    with ThreadsFor(call.frames, call.operations):
        results, kept = _forward(_engine_for(call), call._replace(keep="all"), tensors)
    assert isinstance(kept, walk.Kept)
    return results, kept


def backward(
    call: Call, tensors: Sequence[Any], kept: walk.Kept, dresults: Sequence[Tensor | None], wants_x: bool
) -> list[Tensor | None]:  # fmt: skip
    """The gradients in `tensors`; without that in x, if it is not wanted."""
    with ThreadsFor(call.frames, call.operations):
        return _backward(_engine_for(call), call, tensors, kept, dresults, wants_x)


def _infer(engine: Engine, call: Call) -> tuple[Tensor, ...]:
    engine, weights = _weights(engine, call, call.weights, False)
    prepared = walk.prepare(call.stack, engine, weights)
    return _results(call, *walk.infer(call.stack, engine, prepared, _arguments(call, call.x, call.h0, call.c0)))


def _forward(engine: Engine, call: Call, tensors: Sequence[Any]) -> tuple[tuple[Tensor, ...], Kept]:
    """The results and what is kept."""
    x, h0, c0, *flat = tensors
    args, (engine, weights) = _arguments(call, x, h0, c0), _weights(engine, call, flat, False)
    y, h, c, kept = segments.forward(call.stack, engine, args, weights, call.keep, _dropout(call))
    return _results(call, y, h, c), kept


def _backward(
    engine: Engine, call: Call, tensors: Sequence[Any], kept: Kept, dresults: Sequence[Tensor | None], wants_x: bool
) -> list[Tensor | None]:  # fmt: skip
    """The gradients in `tensors`; without that in x, if it is not wanted."""
    stack = call.stack
    x, h0, c0, *flat = tensors
    args = _arguments(call, x, h0, c0)
    if isinstance(kept, segments.Kept):  # it runs forwards, too: weights that are packed for one pass will not do
        weights = _as_they_are(call, flat)
    else:
        engine, weights = _weights(engine, call, flat, True)
    dy = None if dresults[0] is None else time_major(call, dresults[0])
    dh_n, dc_n = _states(stack, args.h0.shape[1], *dresults[1:])
    dx, dh0, dc0, dweights = segments.backward(
        stack, engine, args, weights, kept, dy, dh_n, dc_n, _dropout(call), wants_x
    )  # fmt: skip
    dstate = state_to_caller(dh0, dc0, call.batched)
    found = [None if dx is None else call.to_caller(dx), *(dstate if stack.has_c else (dstate, None))]
    return _tensors(found + [a for w in dweights for a in w if a is not None])


def _weights(engine: Engine, call: Call, flat: Sequence[Tensor], backward: bool) -> tuple[Engine, list[Weights]]:
    """The parameters of each layer and direction, contiguous, and the engine; it may find them packed already."""
    size = call.operations // (2 * call.frames) * call.stack.dtype.itemsize
    if engine is PACKING and (call.kept.final or (call.frames <= KEPT_FRAMES and size <= KEPT_BYTES)):
        packed = call.kept.packed(engine, call.stack, call.places, flat, backward)
        if packed is not None:
            return Ready(engine, packed), packed.weights
    if call.kept.narrow is not None:
        return engine, call.kept.narrow
    return engine, _as_they_are(call, flat)


def _as_they_are(call: Call, flat: Sequence[Tensor]) -> list[Weights]:
    """The parameters of each layer and direction, contiguous."""
    return by_direction([array(w.contiguous()) for w in flat], call.places, len(call.stack.cells))


def _arguments(call: Call, x: Tensor, h0: Tensor | None, c0: Tensor | None) -> Arguments:
    """The call's tensors as engines take them."""
    packing, x_array = call.packing, time_major(call, x)
    h, c = _states(call.stack, call.rows(x_array), h0, c0)
    lengths, order, starts = (None, None, None) if packing is None else (packing.lengths, packing.order, packing.starts)
    return Arguments(x_array, h, c, lengths, order, None, call.batched, h0 is None, starts)


def _results(call: Call, y: NDArray, h: NDArray, c: NDArray | None) -> tuple[Tensor, ...]:
    """y and the parts of a state as tensors."""
    from_numpy, state = torch.from_numpy, state_to_caller(h, c, call.batched)
    if isinstance(state, tuple):
        return from_numpy(call.to_caller(y)), from_numpy(state[0]), from_numpy(state[1])
    return from_numpy(call.to_caller(y)), from_numpy(state)


def time_major(call: Call, t: Tensor) -> NDArray:
    """A tensor in the layout of x as (T, B, .), the last axis contiguous."""
    return call.time_major(array(t if t.stride(-1) == 1 else t.contiguous()))


def _states(stack: Stack, B: int, h: Tensor | None, c: Tensor | None = None) -> tuple[NDArray, NDArray | None]:
    """h (L*D, B, O) and, for an LSTM, c (L*D, B, H), contiguous; zeros for None."""
    shapes = stack.state_shapes(B)
    return _state(h, shapes[0], stack.dtype), _state(c, shapes[1], stack.dtype) if stack.has_c else None


def _state(t: Tensor | None, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    return np.zeros(shape, dtype) if t is None else array(t.contiguous()).reshape(shape)


def _tensors(arrays: Sequence[NDArray | None]) -> list[Tensor | None]:
    from_numpy = torch.from_numpy
    return [None if a is None else from_numpy(a) for a in arrays]


# ---- Dropout ------------------------------------------------------------------------------------------------------


class _Dropout:
    """Dropout between layers: PyTorch's own numbers, in the order in which its layers draw them."""

    def __init__(self, call: Call) -> None:
        self._call, self._given = call, iter(call.noises)

    def draw(self, shape: tuple[int, ...]) -> NDArray:
        """The factors of a layer's output."""
        if self._call.noises:
            return array(next(self._given))
        ones = torch.from_numpy(np.ones(shape, self._call.stack.dtype))
        drawn = torch.nn.functional.dropout(ones, self._call.dropout)
        make_room(self._call.operations, native.get_threads())  # this was an operation of PyTorch
        return array(drawn)

    def apply(self, a: NDArray, drawn: NDArray, first: int = 0) -> NDArray:
        """Multiply by them."""
        return a * drawn[first : first + len(a)]


def _dropout(call: Call) -> _Dropout | None:
    return _Dropout(call) if call.dropout or call.noises else None


# ---- By PyTorch ---------------------------------------------------------------------------------------------------


def differentiate_pytorch(
    call: Call, tensors: Sequence[Any], noises: Sequence[Tensor], dresults: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients once more by PyTorch's own layers; they can be differentiated again if PyTorch's can."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Of aliases: where h0 depends on x, say, the gradient in x is not to include what comes to it through h0.
        aliases = [None if t is None else t.view_as(t) for t in tensors]
        results = run_pytorch(call, aliases, noises)
        reached, cotangents = zip(
            *((r, d) for r, d in zip(results, dresults, strict=True) if d is not None), strict=True
        )
        wanted = [alias for alias, need in zip(aliases, needed, strict=True) if need]
        found = iter(torch.autograd.grad(reached, wanted, cotangents, create_graph=create_graph, allow_unused=True))
    return tuple(next(found) if need else None for need in needed)


def run_pytorch(call: Call, tensors: Sequence[Any], noises: Sequence[Tensor]) -> list[Tensor]:
    """The results of a call, computed by PyTorch layer by layer, with dropout's factors as they were drawn."""
    stack, packing, batched = call.stack, call.packing, call.batched
    x, h0, c0, *weights = tensors
    x = x if packing is not None else _swapped(stack, x) if batched else x.unsqueeze(1)
    shapes = stack.state_shapes(x.shape[1] if packing is None else packing.B)
    states = [x.new_zeros(shape) if t is None else t.view(shape) for t, shape in zip((h0, c0), shapes, strict=False)]
    D, size = len(stack.directions), len(weights) // stack.num_layers
    function = _gru_reset_before if call.mode == RESET_BEFORE else getattr(torch, call.mode.lower())
    finals = []
    for layer in range(stack.num_layers):
        x = x * noises[layer - 1].view_as(x) if layer > 0 and noises else x
        hx = [t[layer * D : (layer + 1) * D] for t in states]
        given = [x] if packing is None else [x, packing.batch_sizes]
        own = weights[layer * size : (layer + 1) * size]
        options = [stack.cells[0].bias, 1, 0.0, True, D == 2] + ([False] if packing is None else [])
        x, *final = function(*given, hx if stack.has_c else hx[0], own, *options)
        finals.append(final)
    state = [torch.cat(parts) for parts in zip(*finals, strict=True)]
    if packing is not None:
        return [x, *state]
    return [_swapped(stack, x), *state] if batched else [t.squeeze(1) for t in (x, *state)]


def _gru_reset_before(x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    """A layer of one direction that PyTorch does not have; arguments and results are those of `torch._VF.gru`."""
    *sizes, h, weights = given[: 3 if isinstance(given[1], Tensor) else 2]
    w_ih, w_hh, *biases = weights
    steps = x.split(sizes[0].tolist()) if sizes else x.unbind()
    H, h, outputs, ended = w_hh.shape[1], h[0], [], []
    for x_t in steps:
        if len(x_t) < len(h):  # sequences that have ended
            ended.append(h[len(x_t) :])
            h = h[: len(x_t)]
        a = torch.nn.functional.linear(x_t, w_ih, biases[0] if biases else None)
        u = torch.nn.functional.linear(h, w_hh[: 2 * H], biases[1][: 2 * H] if biases else None)
        r, z = torch.sigmoid(a[:, : 2 * H] + u).chunk(2, dim=1)
        n = torch.nn.functional.linear(r * h, w_hh[2 * H :], biases[1][2 * H :] if biases else None)
        n = torch.tanh(a[:, 2 * H :] + n)
        h = (1 - z) * n + z * h
        outputs.append(h)
    y = torch.cat(outputs) if sizes else torch.stack(outputs)
    return y, torch.cat([h, *reversed(ended)])[None]


def _swapped(stack: Stack, t: Tensor) -> Tensor:
    """From the caller's layout to time-major, or back."""
    return t.transpose(0, 1) if stack.batch_first else t
