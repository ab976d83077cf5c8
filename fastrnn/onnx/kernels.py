"""The fast path: what the engines' cells are able to run, forwards and backwards."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines
from fastrnn import run as walk
from fastrnn.arguments import Arguments
from fastrnn.engines.cell import CELLS
from fastrnn.engines.precision import Narrow
from fastrnn.engines.seam import Weights
from fastrnn.onnx.spec import OWN, Call, Node
from fastrnn.stack import Stack
from fastrnn.weights.onnx import join, split

__all__ = ["obstacle", "run", "run_grad", "stack_of", "weights_of"]

OPERATORS = {cell.onnx.operator: cell for cell in CELLS.values() if cell.onnx.operator}

# Clipping here and beyond changes nothing: sigmoid and tanh have long reached their limits (docs/math.md, Numerics).
SATURATED = {np.dtype(np.float32): 89.0, np.dtype(np.float64): 710.0}


def obstacle(node: Node, dtype: np.dtype) -> str:
    """What the kernels do not have of a node, computed in this dtype; empty if they have all."""
    names = OPERATORS[node.equations].onnx
    for functions in node.activations:
        activations = tuple(function.name for function in functions)
        if activations not in names.activations:
            return f"activations {', '.join(activations)}"
        if node.clip is not None and node.clip < np.finfo(dtype).tiny:
            return f"clip={node.clip:g}"
    strange = [name for name in OWN[node.equations] if getattr(node, name) and name not in names.attributes.values()]
    return f"{strange[0]}=1" if strange else ""


def stack_of(call: Call) -> Stack:
    """What a node that has no obstacle computes: one layer, whose directions may have different activations."""
    node, kind = call.node, OPERATORS[call.node.equations]
    (options, *_) = kind.structures({} if call.p is None else {"peephole": call.p.shape})
    options |= {option: bool(getattr(node, attribute)) for option, attribute in kind.onnx.attributes.items()}
    cells = []
    for functions in node.activations:
        own = kind.onnx.activations[tuple(function.name for function in functions)]
        most = math.inf if "relu" in own.values() else SATURATED[call.x.dtype]
        options["clip"] = node.clip if node.clip is not None and node.clip < most else None
        cells.append(kind(call.x.shape[2], call.hidden_size, call.x.dtype, call.b is not None, **{**options, **own}))
    return Stack(tuple(cells), node.reversed, node.batch_first)


def weights_of(call: Call, stack: Stack) -> list[Weights]:
    """Each direction's W, R, B and P as engines take them."""
    parts = [split(cell, call.weights(d)) for d, cell in enumerate(stack.cells)]
    return [
        Weights(**{name: a if isinstance(a, Narrow) else np.ascontiguousarray(a) for name, a in part.items()})
        for part in parts
    ]


def run(call: Call) -> dict[str, NDArray]:
    """Return Y, Y_h and, of an LSTM, Y_c, as the caller has them."""
    node, engine, stack, (T, B, _) = call.node, engines.current(), stack_of(call), call.x.shape
    y = node.empty_y(T, B, call.hidden_size, call.x.dtype)
    prepared = walk.prepare(stack, engine, weights_of(call, stack))
    _, h, c = walk.infer(stack, engine, prepared, _arguments(call), node.by_direction(y))
    return {"Y": y, "Y_h": node.contiguous(h)} | ({} if c is None else {"Y_c": node.contiguous(c)})


def run_grad(call: Call, out_grads: dict[str, NDArray]) -> dict[str, NDArray]:
    """Return the gradient in every input there may be, as the caller has them."""
    node, engine, stack, args = call.node, engines.current(), stack_of(call), _arguments(call)
    weights, (T, B, _) = weights_of(call, stack), call.x.shape
    y = node.by_direction(node.empty_y(T, B, call.hidden_size, call.x.dtype))
    *_, kept = walk.forward(stack, engine, args, weights, y=y)
    dy = node.by_direction(out_grads["Y"]) if "Y" in out_grads else None
    dh_n = _state_grad(call, out_grads.get("Y_h"))
    dc_n = None if call.c0 is None else _state_grad(call, out_grads.get("Y_c"))
    dx, dh0, dc0, dweights = walk.backward(stack, engine, args, weights, kept, dy, dh_n, dc_n)
    assert dx is not None
    grads = {"X": node.time_major(dx), "initial_h": node.contiguous(dh0)}
    grads |= {} if dc0 is None else {"initial_c": node.contiguous(dc0)}
    parts = [join(cell, dw._asdict()) for cell, dw in zip(stack.cells, dweights, strict=True)]
    return grads | {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _arguments(call: Call) -> Arguments:
    """The call's arguments as engines take them; its states become the final ones."""
    order = None if call.lengths is None else np.argsort(-call.lengths, kind="stable")
    return Arguments(call.x, call.h0, call.c0, call.lengths, order, None, batched=True, state_is_new=True)


def _state_grad(call: Call, grad: NDArray | None) -> NDArray:
    """The gradient of a final state, (D, B, H)."""
    return np.zeros_like(call.h0) if grad is None else np.ascontiguousarray(call.node.time_major(grad))
