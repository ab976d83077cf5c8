"""The fast path: what the engines' cells are able to run, forwards and backwards."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines, weights
from fastrnn.engines.cell import Cell, Weights
from fastrnn.onnx.spec import ACTIVATIONS, Call, Node
from fastrnn.stack import at

__all__ = ["cells", "obstacle", "run", "run_grad", "weights_of"]

# Clipping here and beyond changes nothing: sigmoid and tanh have long reached their limits (docs/math.md, Numerics).
SATURATED = {np.dtype(np.float32): 89.0, np.dtype(np.float64): 710.0}


def obstacle(node: Node, dtype: np.dtype) -> str:
    """What the kernels do not have of a node, computed in this dtype; empty if they have all."""
    for functions in node.activations:
        names = tuple(function.name for function in functions)
        if names not in (ACTIVATIONS[node.op_type], ("Relu",)):
            return f"activations {', '.join(names)}"
        if node.clip is not None and (names == ("Relu",) or node.clip < SATURATED[dtype]):
            return f"clip={node.clip:g}"
    return "input_forget=1" if node.input_forget else ""


def cells(call: Call) -> list[Cell]:
    """What each direction computes."""
    node, sizes = call.node, (call.x.shape[2], call.hidden_size)
    options: dict[str, Any] = {"bias": call.b is not None, "peephole": call.p is not None}
    options["reset_after"] = node.linear_before_reset
    return [
        Cell(node.kind, *sizes, call.x.dtype, nonlinearity="relu" if f.name == "Relu" else "tanh", **options)
        for f, *_ in node.activations
    ]


def weights_of(kind: str, arrays: dict[str, NDArray]) -> Weights:
    """One direction's W, R, B and P as engines take them."""
    fields: dict[str, NDArray | None] = dict.fromkeys(Weights._fields)
    fields.update({name: np.ascontiguousarray(a) for name, a in weights.split_onnx(kind, arrays).items()})
    return Weights(**fields)  # type: ignore[arg-type]


def run(call: Call) -> dict[str, NDArray]:
    """Return Y, Y_h and, of an LSTM, Y_c, as the caller has them."""
    node, engine, (T, B) = call.node, engines.current(), call.x.shape[:2]
    y = node.empty_y(T, B, call.hidden_size, call.x.dtype)
    h, c = call.h0, call.c0
    for d, (cell, steps, part) in enumerate(zip(cells(call), call.steps(), node.y_parts(y), strict=True)):
        prepared = engine.prepare(cell, weights_of(node.kind, call.weights(d)))
        engine.forward(cell, prepared, steps, call.x, h[d], at(c, d), part, h[d], at(c, d), None)
    return {"Y": y, "Y_h": node.contiguous(h)} | ({} if c is None else {"Y_c": node.contiguous(c)})


def run_grad(call: Call, out_grads: dict[str, NDArray]) -> dict[str, NDArray]:
    """Return the gradient in every input there may be, as the caller has them."""
    node, engine, (T, B, I) = call.node, engines.current(), call.x.shape
    H, dtype = call.hidden_size, call.x.dtype
    y = node.empty_y(T, B, H, dtype)
    dy = node.y_parts(out_grads["Y"]) if "Y" in out_grads else [None] * len(node.reversed)
    dh_n, dc_n = (_state_grad(call, out_grads.get(name)) for name in ("Y_h", "Y_c"))
    dh0, dc0 = np.empty_like(call.h0), None if call.c0 is None else np.empty_like(call.c0)
    dx = np.empty((B, T, I) if node.batch_first else (T, B, I), dtype)
    parts = []
    for d, (cell, steps, y_d) in enumerate(zip(cells(call), call.steps(), node.y_parts(y), strict=True)):
        w = weights_of(node.kind, call.weights(d))
        record = cell.new_record(T, B, zeroed=call.lengths is not None)
        h0, c0 = call.h0[d], at(call.c0, d)
        end = np.empty_like(h0), None if c0 is None else np.empty_like(c0)
        engine.forward(cell, engine.prepare(cell, w), steps, call.x, h0, c0, y_d, *end, record)
        dw = Weights._make(None if a is None else np.zeros_like(a) for a in w)
        engine.backward(
            cell, engine.prepare_backward(cell, w), steps, call.x, h0, c0, y_d, record, dy[d], dh_n[d],
            None if c0 is None else dc_n[d], node.time_major(dx), dh0[d], at(dc0, d), dw, d > 0,
        )  # fmt: skip
        parts.append(weights.join_onnx(node.kind, dw._asdict()))
    grads = {"X": dx, "initial_h": node.contiguous(dh0)}
    grads |= {} if dc0 is None else {"initial_c": node.contiguous(dc0)}
    return grads | {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _state_grad(call: Call, grad: NDArray | None) -> NDArray:
    """The gradient of a final state, (D, B, H)."""
    return np.zeros_like(call.h0) if grad is None else np.ascontiguousarray(call.node.time_major(grad))
