"""The reference engine: NumPy, written to be read beside the equations of docs/math.md.

It is the oracle of the tests (in float64) and the rival in the benchmarks, and is never optimised. Each cell has one
function for a step forwards and one for a step backwards; two drivers walk a sequence with them. Every backward line
stands opposite the forward line that it differentiates; `d` before a name means the gradient of the loss in it.

A step sees only the rows that are valid at that step, so shapes here are (rows, .), rows <= B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrnn.engines.cell import Cell, GRUCell, LSTMCell, MinGRUCell, MinLSTMCell, RNNCell
from fastrnn.engines.operations import Operations
from fastrnn.engines.reference_operations import ReferenceOperations
from fastrnn.engines.seam import BackwardArgs, ForwardArgs, Stepper, Steps, Weights

__all__ = ["ReferenceEngine"]


def sigmoid(a: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-a))


def affine(x: NDArray, weight: NDArray, bias: NDArray | None) -> NDArray:
    return x @ weight.T if bias is None else x @ weight.T + bias


def clipped(cell: Cell, a: NDArray) -> NDArray:
    """What an activation is given instead of a."""
    clip = cell.options.get("clip")
    return a if clip is None else np.clip(a, -clip, clip)


def through_clip(cell: Cell, activation: Callable[[NDArray], NDArray], y: NDArray, da: NDArray) -> NDArray:
    """The gradient of a, where y = activation(clipped(a)): 0 where y is what it is at the bound.

    A few roundings are allowed for. What they take away is nothing: the gradients of so few values.
    """
    clip = cell.options.get("clip")
    if clip is None:
        return da
    middle, most = activation(np.array([0, clip], y.dtype))
    return np.where(abs(y - middle) > (most - middle) * (1 - 4 * np.finfo(y.dtype).eps), 0, da)


# ---- RNN: h_t = act(W x_t + b_ih + U h_{t-1} + b_hh) --------------------------------------------------------------


def rnn_step(cell: RNNCell, w: Weights, x: NDArray, h: NDArray, c: None) -> tuple[NDArray, None, tuple]:
    a = clipped(cell, affine(x, w.weight_ih, w.bias_ih) + affine(h, w.weight_hh, w.bias_hh))
    return (np.tanh(a) if cell.nonlinearity == "tanh" else np.where(a < 0, 0, a).astype(a.dtype)), None, ()


def rnn_step_backward(
    cell: RNNCell, w: Weights, dw: Weights, x: NDArray, h_prev: NDArray, c_prev: None, gates: None, h: NDArray, c: None,
    dh: NDArray, dc: None,
) -> tuple[NDArray, NDArray, None]:  # fmt: skip
    is_tanh = cell.nonlinearity == "tanh"
    da = dh * (1 - h * h) if is_tanh else np.where(h > 0, dh, 0)
    da = through_clip(cell, np.tanh if is_tanh else lambda a: a, h, da)
    add_weight_gradients(dw, x, h_prev, da, da)
    return da @ w.weight_ih, da @ w.weight_hh, None


# ---- LSTM: c_t = f*c_{t-1} + i*g, h_t = o*tanh(c_t), projected to W_hr h_t ------------------------------------------


def lstm_step(cell: LSTMCell, w: Weights, x: NDArray, h: NDArray, c: NDArray) -> tuple[NDArray, NDArray, tuple]:
    a_i, a_f, a_g, a_o = np.split(affine(x, w.weight_ih, w.bias_ih) + affine(h, w.weight_hh, w.bias_hh), 4, axis=1)
    if w.peephole is not None:
        a_i = a_i + w.peephole[0] * c
        a_f = a_f + w.peephole[1] * c
    i, f, g = sigmoid(clipped(cell, a_i)), sigmoid(clipped(cell, a_f)), np.tanh(clipped(cell, a_g))
    c = f * c + i * g
    if w.peephole is not None:
        a_o = a_o + w.peephole[2] * c
    o = sigmoid(clipped(cell, a_o))
    m = o * np.tanh(clipped(cell, c))
    h = m if w.weight_hr is None else m @ w.weight_hr.T
    return h, c, (i, f, g, o)


def lstm_output_backward(
    cell: LSTMCell, w: Weights, dw: Weights, o: NDArray, c: NDArray, dh: NDArray, dc: NDArray
) -> tuple[NDArray, NDArray]:
    """The gradients of a_o and c, from those of h = W_hr (o*tanh(c)) and c; the last peephole is o's."""
    tanh_c = np.tanh(clipped(cell, c))
    dm = dh
    if w.weight_hr is not None and dw.weight_hr is not None:
        dm = dh @ w.weight_hr
        dw.weight_hr[...] += dh.T @ (o * tanh_c)
    da_o = through_clip(cell, sigmoid, o, dm * tanh_c * o * (1 - o))
    dc = dc + np.where(clipped(cell, c) == c, dm * o * (1 - tanh_c * tanh_c), 0)
    if w.peephole is not None and dw.peephole is not None:
        dc = dc + da_o * w.peephole[-1]
        dw.peephole[-1] += (da_o * c).sum(0)
    return da_o, dc


def lstm_step_backward(
    cell: LSTMCell, w: Weights, dw: Weights, x: NDArray, h_prev: NDArray, c_prev: NDArray, gates: NDArray, h: NDArray,
    c: NDArray, dh: NDArray, dc: NDArray,
) -> tuple[NDArray, NDArray, NDArray]:  # fmt: skip
    i, f, g, o = np.moveaxis(gates, 1, 0)
    da_o, dc = lstm_output_backward(cell, w, dw, o, c, dh, dc)
    da_i = through_clip(cell, sigmoid, i, dc * g * i * (1 - i))
    da_f = through_clip(cell, sigmoid, f, dc * c_prev * f * (1 - f))
    da_g = through_clip(cell, np.tanh, g, dc * i * (1 - g * g))
    dc_prev = dc * f
    if w.peephole is not None and dw.peephole is not None:
        dc_prev = dc_prev + da_i * w.peephole[0] + da_f * w.peephole[1]
        dw.peephole[0] += (da_i * c_prev).sum(0)
        dw.peephole[1] += (da_f * c_prev).sum(0)
    da = np.concatenate([da_i, da_f, da_g, da_o], axis=1)
    add_weight_gradients(dw, x, h_prev, da, da)
    return da @ w.weight_ih, da @ w.weight_hh, dc_prev


# ---- LSTM with coupled gates: f = 1 - i ----------------------------------------------------------------------------


def lstm_coupled_step(cell: LSTMCell, w: Weights, x: NDArray, h: NDArray, c: NDArray) -> tuple[NDArray, NDArray, tuple]:
    a_i, a_g, a_o = np.split(affine(x, w.weight_ih, w.bias_ih) + affine(h, w.weight_hh, w.bias_hh), 3, axis=1)
    if w.peephole is not None:
        a_i = a_i + w.peephole[0] * c
    i, g = sigmoid(clipped(cell, a_i)), np.tanh(clipped(cell, a_g))
    c = (1 - i) * c + i * g
    if w.peephole is not None:
        a_o = a_o + w.peephole[1] * c
    o = sigmoid(clipped(cell, a_o))
    m = o * np.tanh(clipped(cell, c))
    h = m if w.weight_hr is None else m @ w.weight_hr.T
    return h, c, (i, g, o)


def lstm_coupled_step_backward(
    cell: LSTMCell, w: Weights, dw: Weights, x: NDArray, h_prev: NDArray, c_prev: NDArray, gates: NDArray, h: NDArray,
    c: NDArray, dh: NDArray, dc: NDArray,
) -> tuple[NDArray, NDArray, NDArray]:  # fmt: skip
    i, g, o = np.moveaxis(gates, 1, 0)
    da_o, dc = lstm_output_backward(cell, w, dw, o, c, dh, dc)
    da_i = through_clip(cell, sigmoid, i, dc * (g - c_prev) * i * (1 - i))
    da_g = through_clip(cell, np.tanh, g, dc * i * (1 - g * g))
    dc_prev = dc * (1 - i)
    if w.peephole is not None and dw.peephole is not None:
        dc_prev = dc_prev + da_i * w.peephole[0]
        dw.peephole[0] += (da_i * c_prev).sum(0)
    da = np.concatenate([da_i, da_g, da_o], axis=1)
    add_weight_gradients(dw, x, h_prev, da, da)
    return da @ w.weight_ih, da @ w.weight_hh, dc_prev


# ---- GRU: h_t = (1 - z)*n + z*h_{t-1} ("keep") or z*n + (1 - z)*h_{t-1} ("replace") ---------------------------------


def gru_step(cell: GRUCell, w: Weights, x: NDArray, h: NDArray, c: None) -> tuple[NDArray, None, tuple]:
    H = cell.hidden_size
    x_r, x_z, x_n = np.split(affine(x, w.weight_ih, w.bias_ih), 3, axis=1)
    bias_rz, bias_n = (None, None) if w.bias_hh is None else (w.bias_hh[: 2 * H], w.bias_hh[2 * H :])
    h_r, h_z = np.split(affine(h, w.weight_hh[: 2 * H], bias_rz), 2, axis=1)
    r, z = sigmoid(clipped(cell, x_r + h_r)), sigmoid(clipped(cell, x_z + h_z))
    recorded: tuple
    if cell.reset_after:
        hn = affine(h, w.weight_hh[2 * H :], bias_n)
        n = np.tanh(clipped(cell, x_n + r * hn))
        recorded = (r, z, n, hn)
    else:
        n = np.tanh(clipped(cell, x_n + affine(r * h, w.weight_hh[2 * H :], bias_n)))
        recorded = (r, z, n)
    h = (1 - z) * n + z * h if cell.update_gate == "keep" else z * n + (1 - z) * h
    return h, None, recorded


def gru_step_backward(
    cell: GRUCell, w: Weights, dw: Weights, x: NDArray, h_prev: NDArray, c_prev: None, gates: NDArray, h: NDArray,
    c: None, dh: NDArray, dc: None,
) -> tuple[NDArray, NDArray, None]:  # fmt: skip
    H = cell.hidden_size
    r, z, n = np.moveaxis(gates, 1, 0)[:3]
    keep = z if cell.update_gate == "keep" else 1 - z  # h_t = (1 - keep)*n + keep*h_{t-1}
    dz = dh * (h_prev - n) if cell.update_gate == "keep" else dh * (n - h_prev)
    da_z = through_clip(cell, sigmoid, z, dz * z * (1 - z))
    da_n = through_clip(cell, np.tanh, n, dh * (1 - keep) * (1 - n * n))
    dh_prev = dh * keep
    U_rz, U_n = w.weight_hh[: 2 * H], w.weight_hh[2 * H :]
    if cell.reset_after:
        da_r = through_clip(cell, sigmoid, r, da_n * gates[:, 3] * r * (1 - r))
        da_hn = da_n * r
        da_h = np.concatenate([da_r, da_z, da_hn], axis=1)
        dh_prev = dh_prev + da_h @ w.weight_hh
        add_weight_gradients(dw, x, h_prev, np.concatenate([da_r, da_z, da_n], axis=1), da_h)
    else:
        drh = da_n @ U_n  # gradient of r*h_{t-1}
        da_r = through_clip(cell, sigmoid, r, drh * h_prev * r * (1 - r))
        da_rz = np.concatenate([da_r, da_z], axis=1)
        dh_prev = dh_prev + drh * r + da_rz @ U_rz
        da = np.concatenate([da_rz, da_n], axis=1)
        add_weight_gradients(dw, x, h_prev, da, da)
        dw.weight_hh[2 * H :] += da_n.T @ (r * h_prev - h_prev)  # U_n acts on r*h_{t-1}, not on h_{t-1}
    return np.concatenate([da_r, da_z, da_n], axis=1) @ w.weight_ih, dh_prev, None


# ---- minGRU: h_t = (1 - z)*h_{t-1} + z*n, minLSTM: h_t = (f*h_{t-1} + i*n)/(f + i); gates see x_t only ---------------

LEAST_GATE = -80.0  # of minLSTM: an a below counts as this, so that f + i is not 0


def candidate(cell: MinGRUCell | MinLSTMCell, a: NDArray) -> NDArray:
    """n, which is positive or a itself."""
    return np.where(a < 0, sigmoid(a), a + a.dtype.type(0.5)) if cell.nonlinearity == "positive" else a


def candidate_backward(cell: MinGRUCell | MinLSTMCell, n: NDArray, dn: NDArray) -> NDArray:
    """The gradient of a."""
    return np.where(n < 0.5, dn * n * (1 - n), dn) if cell.nonlinearity == "positive" else dn


def min_gru_step(cell: MinGRUCell, w: Weights, x: NDArray, h: NDArray, c: None) -> tuple[NDArray, None, tuple]:
    a_z, a_n = np.split(affine(x, w.weight_ih, w.bias_ih), 2, axis=1)
    z, n = sigmoid(a_z), candidate(cell, a_n)
    return (1 - z) * h + z * n, None, (z, n)


def min_gru_step_backward(
    cell: MinGRUCell, w: Weights, dw: Weights, x: NDArray, h_prev: NDArray, c_prev: None, gates: NDArray, h: NDArray,
    c: None, dh: NDArray, dc: None,
) -> tuple[NDArray, NDArray, None]:  # fmt: skip
    z, n = np.moveaxis(gates, 1, 0)
    da_z = dh * (n - h_prev) * z * (1 - z)
    da_n = candidate_backward(cell, n, dh * z)
    da = np.concatenate([da_z, da_n], axis=1)
    add_weight_gradients(dw, x, h_prev, da, da)
    return da @ w.weight_ih, dh * (1 - z), None


def min_lstm_step(cell: MinLSTMCell, w: Weights, x: NDArray, h: NDArray, c: None) -> tuple[NDArray, None, tuple]:
    a_i, a_f, a_n = np.split(affine(x, w.weight_ih, w.bias_ih), 3, axis=1)
    i, f = sigmoid(np.maximum(a_i, LEAST_GATE)), sigmoid(np.maximum(a_f, LEAST_GATE))
    n = candidate(cell, a_n)
    return f / (f + i) * h + i / (f + i) * n, None, (i, f, n)


def min_lstm_step_backward(
    cell: MinLSTMCell, w: Weights, dw: Weights, x: NDArray, h_prev: NDArray, c_prev: None, gates: NDArray, h: NDArray,
    c: None, dh: NDArray, dc: None,
) -> tuple[NDArray, NDArray, None]:  # fmt: skip
    i, f, n = np.moveaxis(gates, 1, 0)
    kept, written = f / (f + i), i / (f + i)
    dratio = dh * written * (h_prev - n) * kept  # of ln(f/i), as kept = 1/(1 + i/f)
    da_i = -dratio * (1 - i)
    da_f = dratio * (1 - f)
    da_n = candidate_backward(cell, n, dh * written)
    da = np.concatenate([da_i, da_f, da_n], axis=1)
    add_weight_gradients(dw, x, h_prev, da, da)
    return da @ w.weight_ih, dh * kept, None


def add_weight_gradients(dw: Weights, x: NDArray, h_prev: NDArray, da_x: NDArray, da_h: NDArray) -> None:
    """Of W x + b_ih, whose gradient is da_x, and U h_{t-1} + b_hh, whose gradient is da_h; both (rows, G*H)."""
    dw.weight_ih[...] += da_x.T @ x
    if dw.weight_hh is not None:
        dw.weight_hh[...] += da_h.T @ h_prev
    if dw.bias_ih is not None:
        dw.bias_ih[...] += da_x.sum(0)
    if dw.bias_hh is not None:
        dw.bias_hh[...] += da_h.sum(0)


# By the cell's name in C, which says the options that change its equations.
STEP: dict[str, Callable[..., Any]] = {
    "rnn_tanh": rnn_step,
    "rnn_relu": rnn_step,
    "lstm": lstm_step,
    "lstm_coupled": lstm_coupled_step,
    "gru_after": gru_step,
    "gru_before": gru_step,
    "min_gru": min_gru_step,
    "min_lstm": min_lstm_step,
}
STEP_BACKWARD: dict[str, Callable[..., Any]] = {
    "rnn_tanh": rnn_step_backward,
    "rnn_relu": rnn_step_backward,
    "lstm": lstm_step_backward,
    "lstm_coupled": lstm_coupled_step_backward,
    "gru_after": gru_step_backward,
    "gru_before": gru_step_backward,
    "min_gru": min_gru_step_backward,
    "min_lstm": min_lstm_step_backward,
}


# ---- The walk over a sequence --------------------------------------------------------------------------------------


def walk(x: NDArray, steps: Steps) -> Iterator[tuple[int, Any, Any]]:
    """Yield (t, rows, cut) in running order: the rows valid at t, and of those the ones whose state is zeroed before.

    `rows` indexes the batch; `cut` is a boolean (rows,) or None.
    """
    T = len(x if steps.starts is None else steps.starts)
    for t in reversed(range(T)) if steps.reverse else range(T):
        rows: Any = slice(None) if steps.lengths is None else np.flatnonzero(t < steps.lengths)
        cut = None
        if steps.resets is not None:
            if not steps.reverse:
                cut = steps.resets[t, rows] != 0
            elif t + 1 < T:  # the step run before t is t+1, and the boundary between them belongs to t+1
                cut = steps.resets[t + 1, rows] != 0
                if steps.lengths is not None:
                    cut = cut & (t + 1 < steps.lengths[rows])  # past a row's end there is no boundary
        yield t, rows, cut


class Prepared(NamedTuple):
    """A cell and its weights: there is nothing to prepare."""

    cell: Cell
    weights: Weights


class ReferenceEngine:
    """Runs any cell in NumPy, in the dtype of the cell."""

    name = "reference"
    operations: Operations = ReferenceOperations()

    def prepare(self, cell: Cell, weights: Weights, backward: bool = False) -> Prepared:
        """See `fastrnn.engines.Engine.prepare`."""
        return Prepared(cell, weights)

    def forward(self, runs: list[ForwardArgs]) -> None:
        """See `fastrnn.engines.Engine.forward`."""
        for run in runs:
            forward(run)

    def backward(self, runs: list[BackwardArgs]) -> None:
        """See `fastrnn.engines.Engine.backward`."""
        for run in runs:
            backward(run)

    def stepper(self, prepared: list[Prepared], h: NDArray, c: NDArray | None) -> Stepper:
        """See `fastrnn.engines.Engine.stepper`."""

        def step(x: NDArray, out: NDArray, rows: NDArray[np.int64] | None) -> None:
            here: Any = slice(None) if rows is None else rows[: len(x)]
            for layer, part in enumerate(prepared):
                h_l, c_l = h[layer, here], None if c is None else c[layer, here]
                y = np.empty((1, *h_l.shape), h.dtype)
                forward(ForwardArgs(part, Steps(), x[None], h_l, c_l, y, h_l, c_l, None))
                h[layer, here] = h_l
                if c is not None:
                    c[layer, here] = c_l
                x = y[0]
            out[...] = x

        return step


def forward(run: ForwardArgs) -> None:
    """Run one direction; past a row's end its state waits."""
    (cell, weights), steps, x, h0, c0, y, h_n, c_n, record = run
    step = STEP[cell.native]
    h, c = h0.copy(), None if c0 is None else c0.copy()
    if steps.lengths is not None:
        for a in (y, *(record or ())):
            if a is not None:
                a[...] = 0
    with np.errstate(all="ignore"):  # infinities and NaN travel as IEEE says, silently
        for t, rows, cut in walk(x, steps):
            here = place(t, rows, steps)
            h_prev, c_prev = zeroed(h[rows], cut), None if c is None else zeroed(c[rows], cut)
            h[rows], c_t, gates = step(cell, weights, x[here], h_prev, c_prev)
            y[here] = h[rows]
            if c is not None:
                c[rows] = c_t
            if record is not None:
                for k, gate in enumerate(gates):
                    record.gates[here[0], here[1], k] = gate  # type: ignore[index]
                if record.cells is not None:
                    record.cells[here] = c_t
    h_n[...] = h
    if c_n is not None:
        c_n[...] = c


def backward(run: BackwardArgs) -> None:
    """Differentiate one direction's run, step by step in the order opposite to its own."""
    (cell, weights), steps, x, y, h0, c0, record, dy, dh_n, dc_n, dx, adds_to_dx, dh0, dc0, dweights = run
    step_backward = STEP_BACKWARD[cell.native]
    dh, dc = dh_n.copy(), None if dc_n is None else dc_n.copy()
    for dweight in dweights:
        if dweight is not None:
            dweight[...] = 0
    if dx is not None and not adds_to_dx:
        dx[...] = 0
    with np.errstate(all="ignore"):
        visits = list(walk(x, steps))
        for t, rows, cut in reversed(visits):
            here = place(t, rows, steps)
            h_prev = zeroed(previous(y, h0, t, rows, steps), cut)
            c_prev = c_t = None
            if record.cells is not None and c0 is not None:
                c_prev, c_t = zeroed(previous(record.cells, c0, t, rows, steps), cut), record.cells[here]
            gates = None if record.gates is None else record.gates[here]
            dh_t = dh[rows] if dy is None else dh[rows] + dy[here]
            dc_t = None if dc is None else dc[rows]
            dx_t, dh_prev, dc_prev = step_backward(
                cell, weights, dweights, x[here], h_prev, c_prev, gates, y[here], c_t, dh_t, dc_t
            )
            if dx is not None:
                dx[here] += dx_t
            dh[rows] = zeroed(dh_prev, cut)  # nothing flows back through a reset
            if dc is not None:
                dc[rows] = zeroed(dc_prev, cut)
    dh0[...] = dh
    if dc0 is not None:
        dc0[...] = dc


def zeroed(a: NDArray, cut: NDArray | None) -> NDArray:
    """`a` with zeros in the rows where `cut` is true."""
    return a if cut is None else np.where(cut[:, None], a.dtype.type(0), a)


def previous(values: NDArray, initial: NDArray, t: int, rows: Any, steps: Steps) -> NDArray:
    """The (rows, .) values that the step run before t left; the initial ones where t is a row's first step."""
    before = t + 1 if steps.reverse else t - 1
    if steps.lengths is None:
        return values[before, rows] if 0 <= before < len(values) else initial[rows]
    found, there = initial[rows], (before >= 0) & (before < steps.lengths[rows])
    found[there] = values[place(before, rows[there], steps)] if there.any() else 0
    return found


def place(t: int, rows: Any, steps: Steps) -> Any:
    """The index of step t's rows in a series or a record."""
    return (t, rows) if steps.starts is None else (steps.starts[t] + rows, 0)
