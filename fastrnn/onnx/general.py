"""The general path: every combination of attributes, in NumPy, by the specification's equations.

Written to be read beside them; never optimised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastrnn.onnx.spec import GATES, Call

__all__ = ["run"]

State: TypeAlias = "tuple[NDArray, ...]"  # (h,) or, of an LSTM, (h, c)
Step: TypeAlias = "Callable[[NDArray, State], State]"


def run(call: Call) -> dict[str, NDArray]:
    """Return Y, Y_h and, of an LSTM, Y_c, as the caller has them."""
    node, (T, B) = call.node, call.x.shape[:2]
    y = node.empty_y(T, B, call.hidden_size, call.x.dtype)
    finals = []
    with np.errstate(all="ignore"):  # NaN and infinity travel without a word, as in the kernels
        for d, reverse in enumerate(node.reversed):
            state: State = (call.h0[d],) if call.c0 is None else (call.h0[d], call.c0[d])
            step = STEPS[node.equations](call, d)
            finals.append(_sequence(step, call, reverse, state, node.by_direction(y)[:, :, d]))
    states = [np.stack(parts) for parts in zip(*finals, strict=True)]
    return {"Y": y} | {name: node.contiguous(a) for name, a in zip(("Y_h", "Y_c"), states, strict=False)}


def _sequence(step: Step, call: Call, reverse: bool, state: State, y: NDArray) -> State:
    """Run one direction, each row from its own first step; past its end its state is zero, and so is y."""
    T, B = call.x.shape[:2]
    lengths, rows, final = np.full(B, T) if call.lengths is None else call.lengths, np.arange(B), state
    for k in range(T):
        valid = k < lengths
        t = np.where(valid & reverse, lengths - 1 - k, k)
        new = step(call.x[t, rows], state)
        final = tuple(np.where(valid[:, None], a, b) for a, b in zip(new, final, strict=True))
        state = tuple(np.where(valid[:, None], a, 0) for a in new)
        y[t, rows] = state[0]
    return final


def _clipped(call: Call, x: NDArray) -> NDArray:
    """The input of an activation."""
    clip = call.node.clip
    return x if clip is None else np.clip(x, -clip, clip)


def _gates(call: Call, matrix: Any) -> list[Any]:
    """The rows of each gate of a direction's W or R."""
    H, G = call.hidden_size, GATES[call.node.equations]
    return [matrix[k * H : (k + 1) * H] for k in range(G)]


def _biases(call: Call, d: int) -> NDArray:
    """Wb and Rb, gate by gate: (2*G, H), zeros where there is no B."""
    H, G = call.hidden_size, GATES[call.node.equations]
    return np.zeros((2 * G, H), call.x.dtype) if call.b is None else call.b[d].reshape(-1, H)


def _rnn(call: Call, d: int) -> Step:
    w, r, (wb, rb) = call.w[d], call.r[d], _biases(call, d)
    (f,) = call.node.activations[d]

    def step(x: NDArray, state: State) -> State:
        (h,) = state
        return (f(_clipped(call, x @ w.T + h @ r.T + wb + rb)),)

    return step


def _gru(call: Call, d: int) -> Step:
    wz, wr, wh = _gates(call, call.w[d])
    rz, rr, rh = _gates(call, call.r[d])
    wbz, wbr, wbh, rbz, rbr, rbh = _biases(call, d)
    f, g = call.node.activations[d]

    def step(x: NDArray, state: State) -> State:
        (h,) = state
        z = f(_clipped(call, x @ wz.T + h @ rz.T + wbz + rbz))
        r = f(_clipped(call, x @ wr.T + h @ rr.T + wbr + rbr))
        if call.node.linear_before_reset:
            candidate = g(_clipped(call, x @ wh.T + r * (h @ rh.T + rbh) + wbh))
        else:
            candidate = g(_clipped(call, x @ wh.T + (r * h) @ rh.T + rbh + wbh))
        return ((1 - z) * candidate + z * h,)

    return step


def _lstm(call: Call, d: int) -> Step:
    H = call.hidden_size
    wi, wo, wf, wc = _gates(call, call.w[d])
    ri, ro, rf, rc = _gates(call, call.r[d])
    wbi, wbo, wbf, wbc, rbi, rbo, rbf, rbc = _biases(call, d)
    pi, po, pf = np.zeros((3, H), call.x.dtype) if call.p is None else call.p[d].reshape(3, H)
    f, g, h_of = call.node.activations[d]

    def step(x: NDArray, state: State) -> State:
        h, c = state
        i = f(_clipped(call, x @ wi.T + h @ ri.T + pi * c + wbi + rbi))
        forget = 1 - i if call.node.input_forget else f(_clipped(call, x @ wf.T + h @ rf.T + pf * c + wbf + rbf))
        candidate = g(_clipped(call, x @ wc.T + h @ rc.T + wbc + rbc))
        c = forget * c + i * candidate
        o = f(_clipped(call, x @ wo.T + h @ ro.T + po * c + wbo + rbo))
        return o * h_of(_clipped(call, c)), c

    return step


STEPS: dict[str, Callable[[Call, int], Step]] = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
