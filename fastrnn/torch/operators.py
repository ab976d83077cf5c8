"""Calls as operators of PyTorch's, for those who do not run Python: torch.compile, torch.export and AOT.

`torch.ops.fastrnn.recurrent` is the call of a layer, one node of a compiled or exported graph. Where it is to be
differentiated, it is `forward`, which also returns a tape, and `backward`. All are functions of tensors alone, for any
T and B: so dropout's factors are arguments, too. A program that has them needs `import fastrnn.torch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from fastrnn import run as walk
from fastrnn.engines.precision import PRECISIONS
from fastrnn.engines.seam import Record
from fastrnn.stack import Stack
from fastrnn.torch import function
from fastrnn.torch.calls import MODES, Call, described, layout_of, records
from fastrnn.torch.dtypes import computed_in, results_in
from fastrnn.torch.frozen import Frozen
from fastrnn.torch.heap import keep_freed_memory
from fastrnn.torch.kept import Kept
from fastrnn.torch.private import as_usual, by_tensor, weight_names
from fastrnn.torch.tensors import DTYPES, array, plain

__all__ = ["rows_are_known", "run_operator"]

Tensors = Sequence[Tensor]


class Layer(NamedTuple):
    """What operators are told of a module: what `described` reads, and how it was accelerated."""

    mode: str
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    bidirectional: bool
    proj_size: int
    frozen: bool
    precision: str | None
    keep: str = "all"  # a number of steps as digits


# The arguments that all operators have; `rows` is the B of a PackedSequence.
CALL = "Tensor x, Tensor? h, Tensor? c, Tensor[] weights, Tensor[] noises, Tensor? batch_sizes, SymInt rows, "
CALL += "str mode, int input_size, int hidden_size, int num_layers, bool bias, bool batch_first, bool bidirectional, "
CALL += 'int proj_size, bool frozen, str? precision, str keep="all"'

# ---- From a module's call to the operator ---------------------------------------------------------------------------
# torch.compile traces this part, so it is plain code that reads no values.


def rows_are_known(input: Any, hx: Any) -> bool:
    """Whether B can be told from shapes. It cannot from a PackedSequence that was sorted before it was packed."""
    return not isinstance(input, PackedSequence) or hx is not None or input.sorted_indices is not None


def run_operator(module: Any, input: Any, hx: Any) -> tuple[Any, Any] | None:
    """The results of `module(input, hx)`, by the operator; None if the call is PyTorch's."""
    packed = isinstance(input, PackedSequence)
    x = input.data if packed else input
    if packed and hx is not None:
        hx = module.permute_hidden(hx, input.sorted_indices)
    has_c = module.mode == "LSTM"
    states = [] if hx is None else list(hx) if has_c and isinstance(hx, (tuple, list)) else [hx]
    weights = [getattr(module, name) for name in weight_names(module)]
    tensors = [x, *states, *weights]
    if not all(isinstance(t, Tensor) and t.device.type == "cpu" and t.layout == torch.strided for t in tensors):
        return None
    if x.dim() not in ((2,) if packed else (2, 3)) or x.shape[-1] != module.input_size:
        return None
    batched = packed or x.dim() == 3
    B: Any = x.shape[0 if module.batch_first else 1] if batched and not packed else 1
    if packed:
        known = states[0].shape[-2] if states else None if input.sorted_indices is None else len(input.sorted_indices)
        B = int(input.batch_sizes[0]) if known is None else known
    if states and not _states_fit(module, states, B, batched):
        return None
    dtypes = [t.dtype for t in tensors]
    wide, results = computed_in(dtypes), None
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    if wide is None or (autocast is None and any(dtype != dtypes[0] for dtype in dtypes)):
        return None
    if autocast is not None or wide != dtypes[0]:
        if packed and torch.compiler.is_compiling():
            return None  # the dtypes depend on values
        sizes = () if not packed else (1, 1) if int(input.batch_sizes[0]) == int(input.batch_sizes[-1]) else (2, 1)
        results = results_in(
            module.mode, x.dtype, tuple(t.dtype for t in states), tuple(w.dtype for w in weights), autocast,
            torch.is_grad_enabled() and any(t.requires_grad for t in tensors), sizes, module.num_layers, module.bias,
            module.bidirectional, module.proj_size > 0,
        )  # fmt: skip
        if results is None:
            return None
        x, states, weights = x.to(wide), [t.to(wide) for t in states], [w.to(wide) for w in weights]
    h, c, *_ = (*states, None, None)
    frozen = module._frozen
    y, *state = torch.ops.fastrnn.recurrent.default(
        x, h, c, weights, _noises(module, x, packed, B), input.batch_sizes if packed else None, B if packed else 0,
        module.mode, module.input_size, module.hidden_size, module.num_layers, module.bias, module.batch_first,
        module.bidirectional, module.proj_size, frozen is not None, None if frozen is None else frozen.precision,
        str(module._keep),
    )  # fmt: skip
    if results is not None:
        y, *state = [t.to(dtype) for t, dtype in zip((y, *state), results, strict=False)]
    hx = (state[0], state[1]) if has_c else state[0]
    if not packed:
        return y, hx
    return PackedSequence(y, *input[1:]), module.permute_hidden(hx, input.unsorted_indices)


def _states_fit(module: Any, states: list[Tensor], B: Any, batched: bool) -> bool:
    """Whether an initial state is one that PyTorch would accept."""
    LD, O = module.num_layers * (1 + module.bidirectional), module.proj_size or module.hidden_size
    sizes = (O, module.hidden_size) if module.mode == "LSTM" else (O,)
    if len(states) != len(sizes):
        return False
    return all(t.shape == ((LD, B, size) if batched else (LD, size)) for t, size in zip(states, sizes, strict=True))


def _noises(module: Any, x: Tensor, packed: bool, B: Any) -> list[Tensor]:
    """Dropout's factors between layers, (T, B, D*O), drawn as PyTorch's layers draw them."""
    if not (module.training and module.dropout > 0 and module.num_layers > 1):
        return []
    size = (1 + module.bidirectional) * (module.proj_size or module.hidden_size)
    steps = x.shape[1 if module.batch_first and x.dim() == 3 else 0]
    ones = x.new_ones((steps, 1 if packed else B, size))
    return [torch.nn.functional.dropout(ones, module.dropout) for _ in range(module.num_layers - 1)]


# ---- What operators compute ------------------------------------------------------------------------------------------


def _recurrent(*args: Any) -> tuple[Tensor, ...]:
    """y, h and c, which is empty where the cell has none."""
    call = _call_of(*args)
    if call.frames == 0:
        return _with_c(*function.run_pytorch(call, (call.x, call.h0, call.c0, *call.weights), call.noises))
    return _with_c(*function.run(call))


def _forward(*args: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """y, h, c and the tape: the outputs of all layers but the last, then what cells record."""
    keep_freed_memory()
    call = _call_of(*args)
    tensors = (call.x, call.h0, call.c0, *call.weights)
    if call.frames == 0:
        shapes = _Shapes.of(*args)
        return *_with_c(*function.run_pytorch(call, tensors, call.noises)), [*map(args[0].new_empty, shapes.tape)]
    results, kept = function.forward(call, tensors)
    tape = kept.outputs[:-1] + [a for field in zip(*kept.records, strict=True) for a in field if a is not None]
    return *_with_c(*results), list(map(torch.from_numpy, tape))


def _backward(
    dy: Tensor | None, dh: Tensor | None, dc: Tensor | None, y: Tensor, tape: Tensors, wants_x: bool, *args: Any
) -> list[Tensor]:  # fmt: skip
    """The gradients: in x, if it is wanted, in h, in c, where the cell has one, and in weights."""
    call = _call_of(*args)
    if call.frames == 0:
        return [*map(args[0].new_zeros, _Shapes.of(*args).gradients(wants_x))]
    L, cells = call.stack.num_layers, call.stack.cells
    lower, fields = tape[: L - 1], iter(array(t.contiguous()) for t in tape[L - 1 :])
    gates = [next(fields) if cell.recorded else None for cell in cells]
    memories = [next(fields) if cell.has_c else None for cell in cells]
    outputs = [*(array(t.contiguous()) for t in lower), function.time_major(call, y)]
    drawn = [array(t.contiguous()) for t in call.noises]
    kept = walk.Kept(outputs, drawn, list(map(Record, gates, memories)))
    found = function.backward(call, (call.x, call.h0, call.c0, *call.weights), kept, (dy, dh, dc), wants_x)
    return [d for d in found if d is not None]


def _with_c(y: Tensor, h: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    return y, h, y.new_empty(0) if c is None else c


def _call_of(
    x: Tensor, h: Tensor | None, c: Tensor | None, weights: Tensors, noises: Tensors, batch_sizes: Tensor | None,
    rows: int, *options: Any,
) -> Call:  # fmt: skip
    """The call that an operator is to run.

    Raises
    ------
    ValueError
        If tensors and options do not belong together.
    """
    noises = noises or ()  # AOTInductor passes None for an empty list
    shapes = _Shapes.of(x, h, c, weights, noises, batch_sizes, rows, *options)
    layer, stack = shapes.layer, shapes.stack
    x, h, c = _readable(x), None if h is None else _readable(h), None if c is None else _readable(c)
    weights, noises, packing = list(map(_readable, weights)), list(map(_readable, noises)), None
    if batch_sizes is not None and x.numel():
        packing = layout_of(batch_sizes, len(x))
        if packing is None or rows != packing.B:
            raise ValueError(f"batch_sizes: expected those of {len(x)} rows, {rows} of them in the first step")
    _, places, _, operations = described(layer, x.dtype, batch_sizes is not None)
    frames = x.numel() // layer.input_size
    recorded = records() and any(t is not None and t.requires_grad for t in (x, h, c, *weights))
    return Call(
        recorded, layer.mode, stack, places, 0.0, noises, batch_sizes is not None or x.dim() == 3, packing, frames,
        frames * operations, _kept(weights, layer), x, h, c, weights,
        int(layer.keep) if layer.keep.isdecimal() else layer.keep,
    )  # fmt: skip


def _readable(t: Tensor) -> Tensor:
    """A tensor whose memory the kernels can read: itself, but for rare ones."""
    return t if not t.numel() or plain(t, t.dtype) else torch.empty(t.shape, dtype=t.dtype, device="cpu").copy_(t)


_KEPT = by_tensor()


def _kept(weights: Tensors, layer: Layer) -> Kept:
    """What is kept of these weights, which an operator knows by the first of them."""
    kept = None if _KEPT is None else _KEPT.get(weights[0])
    if layer.frozen:
        if not isinstance(kept, Frozen) or kept.precision != layer.precision:
            kept = Frozen(layer.precision)
        kept.follow(weights, layer)
    elif kept is None or isinstance(kept, Frozen):
        kept = Kept()
    if _KEPT is not None:
        _KEPT[weights[0]] = kept
    return kept


# ---- Shapes, which is all that a tracer needs -----------------------------------------------------------------------


class _Shapes(NamedTuple):
    """The shapes of a call, and of what comes of it. T and B may be symbols."""

    layer: Layer
    stack: Stack
    steps: tuple[Any, Any]  # of a time-major series: T and B, or the rows of a PackedSequence and 1
    x: tuple[Any, ...]
    states: list[tuple[Any, ...]]  # of h and, where the cell has one, c
    weights: tuple[tuple[int, ...], ...]

    @classmethod
    def of(
        cls, x: Tensor, h: Tensor | None, c: Tensor | None, weights: Tensors, noises: Tensors,
        batch_sizes: Tensor | None, rows: Any, *options: Any,
    ) -> _Shapes:  # fmt: skip
        """The shapes of an operator's call; errors are those of `_call_of`."""
        layer, packed, noises = Layer(*options), batch_sizes is not None, noises or ()
        if layer.mode not in MODES or min(layer.input_size, layer.hidden_size, layer.num_layers) < 1:
            raise ValueError(f"expected the options of a torch.nn.LSTM, GRU or RNN, got {layer}")
        if not 0 <= layer.proj_size < layer.hidden_size or (layer.proj_size and layer.mode != "LSTM"):
            raise ValueError(f"proj_size: expected 0, or for an LSTM less than hidden_size, got {layer.proj_size}")
        if layer.precision not in (None, *PRECISIONS) or (layer.precision is not None and not layer.frozen):
            raise ValueError(f"precision: expected None, or for frozen weights one of {', '.join(PRECISIONS)}")
        if x.dtype not in DTYPES or x.dim() not in ((2,) if packed else (2, 3)) or x.shape[-1] != layer.input_size:
            raise ValueError(
                f"x: expected float32 or float64 (..., {layer.input_size}), got {x.dtype} {tuple(x.shape)}"
            )
        stack, _, weight_shapes, _ = described(layer, x.dtype, packed)
        if packed or x.dim() == 2:
            steps: tuple[Any, Any] = x.shape[0], 1
        else:
            steps = (x.shape[1], x.shape[0]) if layer.batch_first else (x.shape[0], x.shape[1])
        rows = rows if packed else steps[1]
        states = [shape if packed or x.dim() == 3 else shape[::2] for shape in stack.state_shapes(rows)]
        given = [t for t in (h, c) if t is not None]
        _expect("h, c", given, states if given else [], x.dtype)
        _expect("weights", weights, list(weight_shapes), x.dtype)
        _expect("noises", noises, [(*steps, stack.output_size)] * (stack.num_layers - 1 if noises else 0), x.dtype)
        return cls(layer, stack, steps, tuple(x.shape), states, weight_shapes)

    @property
    def results(self) -> list[tuple[Any, ...]]:
        """Of y, h and c."""
        return [(*self.x[:-1], self.stack.output_size), *self.states, (0,)][:3]

    @property
    def tape(self) -> list[tuple[Any, ...]]:
        """Of what `forward` returns besides."""
        cells = self.stack.cells
        lower = [(*self.steps, self.stack.output_size)] * (self.stack.num_layers - 1)
        gates = [(*self.steps, len(cell.recorded), cell.hidden_size) for cell in cells if cell.recorded]
        return lower + gates + [(*self.steps, cell.hidden_size) for cell in cells if cell.has_c]

    def gradients(self, wants_x: bool) -> list[tuple[Any, ...]]:
        """Of what `backward` returns."""
        return [*([self.x] if wants_x else []), *self.states, *self.weights]


def _expect(name: str, tensors: Tensors, shapes: list[tuple[Any, ...]], dtype: torch.dtype) -> None:
    """Raise a ValueError unless tensors have these shapes and this dtype."""
    if len(tensors) != len(shapes) or any(
        t.dtype != dtype or t.dim() != len(shape) or tuple(t.shape) != tuple(shape)
        for t, shape in zip(tensors, shapes, strict=True)
    ):
        got = ", ".join(f"{t.dtype} {tuple(t.shape)}" for t in tensors)
        raise ValueError(f"{name}: expected {dtype} {', '.join(map(str, shapes)) or 'none'}, got {got or 'none'}")


def _recurrent_traced(x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return tuple(map(x.new_empty, _Shapes.of(x, *args).results))


def _forward_traced(x: Tensor, *args: Any) -> tuple[Any, ...]:
    shapes = _Shapes.of(x, *args)
    return *map(x.new_empty, shapes.results), [*map(x.new_empty, shapes.tape)]


def _backward_traced(dy: Any, dh: Any, dc: Any, y: Any, tape: Any, wants_x: bool, x: Tensor, *args: Any) -> Any:
    return [*map(x.new_empty, _Shapes.of(x, *args).gradients(wants_x))]


# ---- Gradients ------------------------------------------------------------------------------------------------------


def _differentiable(*args: Any) -> tuple[Tensor, ...]:
    """`recurrent`, as a node of the graph where PyTorch records one."""
    x, h, c, weights, noises, batch_sizes, rows, *options = args
    layer = Layer(*options)
    wanting = [t is not None and t.requires_grad for t in (x, h, c, *weights)]
    recorded = records() and any(wanting)
    if recorded and layer.frozen and any(wanting[3:]) and not torch.compiler.is_exporting():
        raise RuntimeError(
            "frozen: expected a call that needs no gradients of the weights; call under torch.no_grad() or "
            "torch.inference_mode(), or after requires_grad_(False)"
        )
    if as_usual() and all(t is None or plain(t, x.dtype) for t in (x, h, c, *weights, *noises)):
        return _recurrent(*args)
    if recorded and not (layer.frozen and torch.compiler.is_exporting()):
        return Traced.apply((rows, *options), len(noises), x, h, c, batch_sizes, *noises, *weights)
    return torch.ops.fastrnn.infer.default(*args)


class Traced(torch.autograd.Function):
    """A call as one node of the graph, for those who trace it: its parts are operators, too."""

    @staticmethod
    def forward(
        ctx: Any, form: tuple[Any, ...], noises: int, x: Any, h: Any, c: Any, batch_sizes: Any, *others: Tensor
    ) -> tuple[Tensor, ...]:  # fmt: skip
        args = x, h, c, list(others[noises:]), list(others[:noises]), batch_sizes, *form
        y, h_n, c_n, tape = torch.ops.fastrnn.forward.default(*args)
        ctx.form, ctx.noises, ctx.count = form, noises, len(others)
        # A copy of y, for the caller may change y in place. (A compiler removes the copy where nobody does.)
        ctx.save_for_backward(x, h, c, batch_sizes, *others, y.clone(), *tape)
        ctx.set_materialize_grads(False)
        return y, h_n, c_n

    @staticmethod
    def backward(ctx: Any, dy: Any, dh: Any, dc: Any) -> tuple[Any, ...]:
        x, h, c, batch_sizes, *others = ctx.saved_tensors
        others, (y, *tape) = others[: ctx.count], others[ctx.count :]
        noises, weights = others[: ctx.noises], others[ctx.noises :]
        args = x, h, c, weights, noises, batch_sizes, *ctx.form
        needed = ctx.needs_input_grad[2:5] + ctx.needs_input_grad[6 + ctx.noises :]
        has_c = Layer(*ctx.form[1:]).mode == "LSTM"
        dresults = (dy, dh, dc) if has_c else (dy, dh)
        found: Any
        if torch.is_grad_enabled():
            found = function.differentiate_pytorch(_call_of(*args), (x, h, c, *weights), noises, dresults, needed)
        else:
            gradients = torch.ops.fastrnn.backward.default(dy, dh, dc if has_c else None, y, tape, needed[0], *args)
            dx = [gradients.pop(0) if needed[0] else None]
            dstate = [gradients.pop(0), gradients.pop(0) if has_c else None]
            found = [d if wanted else None for d, wanted in zip(dx + dstate + gradients, needed, strict=True)]
        return None, None, *found[:3], None, *[None] * ctx.noises, *found[3:]


# ---- Registration ---------------------------------------------------------------------------------------------------

_LIBRARY = torch.library.Library("fastrnn", "DEF")
for _name, _schema, _run, _trace in (
    ("recurrent", f"({CALL}) -> (Tensor, Tensor, Tensor)", _recurrent, _recurrent_traced),
    ("infer", f"({CALL}) -> (Tensor, Tensor, Tensor)", _recurrent, _recurrent_traced),
    ("forward", f"({CALL}) -> (Tensor, Tensor, Tensor, Tensor[])", _forward, _forward_traced),
    (
        "backward",
        f"(Tensor? dy, Tensor? dh, Tensor? dc, Tensor y, Tensor[] tape, bool wants_x, {CALL}) -> Tensor[]",
        _backward, _backward_traced,
    ),
):  # fmt: skip
    _LIBRARY.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(_name, _run, "CPU")
    torch.library.register_fake(f"fastrnn::{_name}", _trace, lib=_LIBRARY)
_LIBRARY.impl("recurrent", _differentiable, "AutogradCPU")
