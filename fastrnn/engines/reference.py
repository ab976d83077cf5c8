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

from fastrnn.engines import philox
from fastrnn.engines.cell import Cell, GRUCell, LSTMCell, MinGRUCell, MinLSTMCell, RNNCell, SLSTMCell
from fastrnn.engines.operations import Operations
from fastrnn.engines.reference_operations import ReferenceOperations
from fastrnn.engines.seam import BackwardArgs, ForwardArgs, StepNoise, Stepper, Steps, Weights

__all__ = ["ReferenceEngine"]


def sigmoid(a: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-a))


# ---- Layer normalisation: n = (a - mean) / sqrt(variance + eps) of each row ------------------------------------------


def normalized(a: NDArray, eps: float) -> tuple[NDArray, NDArray]:
    """n, and one over the deviation, of each row."""
    away = a - a.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt((away * away).mean(axis=-1, keepdims=True) + eps)
    return away * inverse, inverse


def normalized_backward(n: NDArray, inverse: NDArray, dn: NDArray) -> NDArray:
    """The gradient of a."""
    return inverse * (dn - dn.mean(axis=-1, keepdims=True) - n * (dn * n).mean(axis=-1, keepdims=True))


def normed(a: NDArray, gain: NDArray | None, eps: float) -> NDArray:
    """a itself, or gain*n."""
    return a if gain is None else normalized(a, eps)[0] * gain


def normed_backward(a: NDArray, gain: NDArray | None, dgain: NDArray | None, eps: float, dy: NDArray) -> NDArray:
    """The gradient of a, from that of normed(a, gain, eps)."""
    if gain is None or dgain is None:
        return dy
    n, inverse = normalized(a, eps)
    dgain += (dy * n).sum(0)
    return normalized_backward(n, inverse, dy * gain)


def gates_of(cell: Cell, a: NDArray) -> NDArray:
    """(., G*H) as (., G, H): "sum" normalises each gate by itself."""
    return a.reshape(*a.shape[:-1], len(cell.gates), cell.hidden_size)


# ---- What all cells share: a = W x + b_ih + U h_{t-1} + b_hh, normalised or not --------------------------------------


def preactivations(cell: Cell, w: Weights, x: NDArray, h: NDArray) -> NDArray:
    if w.norm is None:
        ih, hh = (
            normed(x @ w.weight_ih.T, w.norm_ih, cell.norm_eps),
            normed(h @ w.weight_hh.T, w.norm_hh, cell.norm_eps),
        )
        return biased(ih, w.bias_ih) + biased(hh, w.bias_hh)
    a = x @ w.weight_ih.T + h @ w.weight_hh.T
    a = normed(gates_of(cell, a), gates_of(cell, w.norm), cell.norm_eps).reshape(a.shape)
    return biased(biased(a, w.bias_ih), w.bias_hh)


def biased(a: NDArray, bias: NDArray | None) -> NDArray:
    return a if bias is None else a + bias


def preactivations_backward(
    cell: Cell, w: Weights, dw: Weights, x: NDArray, h: NDArray, da: NDArray
) -> tuple[NDArray, NDArray]:
    """The gradients of x and h."""
    add_bias_gradients(dw, da, da)
    if w.norm is None:
        return input_backward(cell, w, dw, x, da), state_backward(cell, w, dw, h, da, slice(None))
    a, gain = gates_of(cell, x @ w.weight_ih.T + h @ w.weight_hh.T), gates_of(cell, w.norm)
    dgain = None if dw.norm is None else gates_of(cell, dw.norm)
    da = normed_backward(a, gain, dgain, cell.norm_eps, gates_of(cell, da)).reshape(da.shape)
    dw.weight_ih[...] += da.T @ x
    dw.weight_hh[...] += da.T @ h
    return da @ w.weight_ih, da @ w.weight_hh


def input_backward(cell: Cell, w: Weights, dw: Weights, x: NDArray, da: NDArray) -> NDArray:
    """The gradient of x, from that of W x as it is normalised."""
    if w.norm_ih is not None:
        da = normed_backward(x @ w.weight_ih.T, w.norm_ih, dw.norm_ih, cell.norm_eps, da)
    dw.weight_ih[...] += da.T @ x
    return da @ w.weight_ih


def state_backward(cell: Cell, w: Weights, dw: Weights, h: NDArray, da: NDArray, rows: slice) -> NDArray:
    """The gradient of h, from that of U h as it is normalised; `rows` of U."""
    U = w.weight_hh[rows]
    if w.norm_hh is not None and dw.norm_hh is not None:
        da = normed_backward(h @ U.T, w.norm_hh[rows], dw.norm_hh[rows], cell.norm_eps, da)
    dw.weight_hh[rows] += da.T @ h
    return da @ U


def add_bias_gradients(dw: Weights, da_x: NDArray, da_h: NDArray) -> None:
    """Of W x + b_ih, whose gradient is da_x, and U h + b_hh, whose gradient is da_h; both (rows, G*H)."""
    if dw.bias_ih is not None:
        dw.bias_ih[...] += da_x.sum(0)
    if dw.bias_hh is not None:
        dw.bias_hh[...] += da_h.sum(0)


class Masks(NamedTuple):
    """What values of a step are multiplied by, (rows, .); None where nothing is dropped."""

    candidate: NDArray | None = None
    state: NDArray | None = None  # h_{t-1} where it meets U


NO_MASKS = Masks()


def masked(a: NDArray, mask: NDArray | None) -> NDArray:
    return a if mask is None else a * mask


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


def rnn_step(
    cell: RNNCell, w: Weights, x: NDArray, h: NDArray, c: None, masks: Masks = NO_MASKS
) -> tuple[NDArray, None, tuple]:
    a = clipped(cell, preactivations(cell, w, x, masked(h, masks.state)))
    return (np.tanh(a) if cell.nonlinearity == "tanh" else np.where(a < 0, 0, a).astype(a.dtype)), None, ()


def rnn_step_backward(
    cell: RNNCell, w: Weights, dw: Weights, x: NDArray, h_prev: NDArray, c_prev: None, gates: None, h: NDArray, c: None,
    dh: NDArray, dc: None, masks: Masks = NO_MASKS,
) -> tuple[NDArray, NDArray, None]:  # fmt: skip
    is_tanh = cell.nonlinearity == "tanh"
    da = dh * (1 - h * h) if is_tanh else np.where(h > 0, dh, 0)
    da = through_clip(cell, np.tanh if is_tanh else lambda a: a, h, da)
    dx, dh_met = preactivations_backward(cell, w, dw, x, masked(h_prev, masks.state), da)
    return dx, masked(dh_met, masks.state), None


# ---- LSTM: c_t = f*c_{t-1} + i*g, h_t = o*tanh(c_t), projected to W_hr h_t ------------------------------------------


def lstm_step(
    cell: LSTMCell, w: Weights, x: NDArray, h: NDArray, c: NDArray, masks: Masks = NO_MASKS
) -> tuple[NDArray, NDArray, tuple]:
    a_i, a_f, a_g, a_o = np.split(preactivations(cell, w, x, masked(h, masks.state)), 4, axis=1)
    if w.peephole is not None:
        a_i = a_i + w.peephole[0] * c
        a_f = a_f + w.peephole[1] * c
    i, f, g = sigmoid(clipped(cell, a_i)), sigmoid(clipped(cell, a_f)), np.tanh(clipped(cell, a_g))
    c = f * c + i * masked(g, masks.candidate)
    if w.peephole is not None:
        a_o = a_o + w.peephole[2] * c
    o = sigmoid(clipped(cell, a_o))
    return lstm_output(cell, w, o, c), c, (i, f, g, o)


def lstm_output(cell: LSTMCell, w: Weights, o: NDArray, c: NDArray) -> NDArray:
    """h = W_hr (o*tanh(c)), of c as it is normalised."""
    m = o * np.tanh(clipped(cell, biased(normed(c, w.norm_c, cell.norm_eps), w.bias_c)))
    return m if w.weight_hr is None else m @ w.weight_hr.T


def lstm_output_backward(
    cell: LSTMCell, w: Weights, dw: Weights, o: NDArray, c: NDArray, dh: NDArray, dc: NDArray
) -> tuple[NDArray, NDArray]:
    """The gradients of a_o and c, from those of h and c; the last peephole is o's."""
    shown = biased(normed(c, w.norm_c, cell.norm_eps), w.bias_c)
    q = np.tanh(clipped(cell, shown))
    dm = dh
    if w.weight_hr is not None and dw.weight_hr is not None:
        dm = dh @ w.weight_hr
        dw.weight_hr[...] += dh.T @ (o * q)
    da_o = through_clip(cell, sigmoid, o, dm * q * o * (1 - o))
    dshown = np.where(clipped(cell, shown) == shown, dm * o * (1 - q * q), 0)
    if dw.bias_c is not None:
        dw.bias_c[...] += dshown.sum(0)
    dc = dc + normed_backward(c, w.norm_c, dw.norm_c, cell.norm_eps, dshown)
    if w.peephole is not None and dw.peephole is not None:
        dc = dc + da_o * w.peephole[-1]
        dw.peephole[-1] += (da_o * c).sum(0)
    return da_o, dc


def lstm_step_backward(
    cell: LSTMCell, w: Weights, dw: Weights, x: NDArray, h_prev: NDArray, c_prev: NDArray, gates: NDArray, h: NDArray,
    c: NDArray, dh: NDArray, dc: NDArray, masks: Masks = NO_MASKS,
) -> tuple[NDArray, NDArray, NDArray]:  # fmt: skip
    i, f, g, o = np.moveaxis(gates, 1, 0)
    da_o, dc = lstm_output_backward(cell, w, dw, o, c, dh, dc)
    da_i = through_clip(cell, sigmoid, i, dc * masked(g, masks.candidate) * i * (1 - i))
    da_f = through_clip(cell, sigmoid, f, dc * c_prev * f * (1 - f))
    da_g = through_clip(cell, np.tanh, g, masked(dc * i, masks.candidate) * (1 - g * g))
    dc_prev = dc * f
    if w.peephole is not None and dw.peephole is not None:
        dc_prev = dc_prev + da_i * w.peephole[0] + da_f * w.peephole[1]
        dw.peephole[0] += (da_i * c_prev).sum(0)
        dw.peephole[1] += (da_f * c_prev).sum(0)
    da = np.concatenate([da_i, da_f, da_g, da_o], axis=1)
    dx, dh_met = preactivations_backward(cell, w, dw, x, masked(h_prev, masks.state), da)
    return dx, masked(dh_met, masks.state), dc_prev


# ---- LSTM with coupled gates: f = 1 - i ----------------------------------------------------------------------------


def lstm_coupled_step(
    cell: LSTMCell, w: Weights, x: NDArray, h: NDArray, c: NDArray, masks: Masks = NO_MASKS
) -> tuple[NDArray, NDArray, tuple]:
    a_i, a_g, a_o = np.split(preactivations(cell, w, x, masked(h, masks.state)), 3, axis=1)
    if w.peephole is not None:
        a_i = a_i + w.peephole[0] * c
    i, g = sigmoid(clipped(cell, a_i)), np.tanh(clipped(cell, a_g))
    c = (1 - i) * c + i * masked(g, masks.candidate)
    if w.peephole is not None:
        a_o = a_o + w.peephole[1] * c
    o = sigmoid(clipped(cell, a_o))
    return lstm_output(cell, w, o, c), c, (i, g, o)


def lstm_coupled_step_backward(
    cell: LSTMCell, w: Weights, dw: Weights, x: NDArray, h_prev: NDArray, c_prev: NDArray, gates: NDArray, h: NDArray,
    c: NDArray, dh: NDArray, dc: NDArray, masks: Masks = NO_MASKS,
) -> tuple[NDArray, NDArray, NDArray]:  # fmt: skip
    i, g, o = np.moveaxis(gates, 1, 0)
    da_o, dc = lstm_output_backward(cell, w, dw, o, c, dh, dc)
    da_i = through_clip(cell, sigmoid, i, dc * (masked(g, masks.candidate) - c_prev) * i * (1 - i))
    da_g = through_clip(cell, np.tanh, g, masked(dc * i, masks.candidate) * (1 - g * g))
    dc_prev = dc * (1 - i)
    if w.peephole is not None and dw.peephole is not None:
        dc_prev = dc_prev + da_i * w.peephole[0]
        dw.peephole[0] += (da_i * c_prev).sum(0)
    da = np.concatenate([da_i, da_g, da_o], axis=1)
    dx, dh_met = preactivations_backward(cell, w, dw, x, masked(h_prev, masks.state), da)
    return dx, masked(dh_met, masks.state), dc_prev


# ---- GRU: h_t = (1 - z)*n + z*h_{t-1} ("keep") or z*n + (1 - z)*h_{t-1} ("replace") ---------------------------------


def gru_step(
    cell: GRUCell, w: Weights, x: NDArray, h: NDArray, c: None, masks: Masks = NO_MASKS
) -> tuple[NDArray, None, tuple]:
    H, eps, met = cell.hidden_size, cell.norm_eps, masked(h, masks.state)

    def state_part(h: NDArray, rows: slice) -> NDArray:
        """U h + b_hh, of some rows of U."""
        gain, bias = (None if a is None else a[rows] for a in (w.norm_hh, w.bias_hh))
        return biased(normed(h @ w.weight_hh[rows].T, gain, eps), bias)

    x_r, x_z, x_n = np.split(biased(normed(x @ w.weight_ih.T, w.norm_ih, eps), w.bias_ih), 3, axis=1)
    recorded: tuple
    if cell.reset_after:
        h_r, h_z, hn = np.split(state_part(met, slice(None)), 3, axis=1)
        r, z = sigmoid(clipped(cell, x_r + h_r)), sigmoid(clipped(cell, x_z + h_z))
        n = np.tanh(clipped(cell, x_n + r * hn))
        recorded = (r, z, n, hn)
    else:
        h_r, h_z = np.split(state_part(met, slice(0, 2 * H)), 2, axis=1)
        r, z = sigmoid(clipped(cell, x_r + h_r)), sigmoid(clipped(cell, x_z + h_z))
        n = np.tanh(clipped(cell, x_n + state_part(r * met, slice(2 * H, None))))
        recorded = (r, z, n)
    n = masked(n, masks.candidate)
    h = (1 - z) * n + z * h if cell.update_gate == "keep" else z * n + (1 - z) * h
    return h, None, recorded


def gru_step_backward(
    cell: GRUCell, w: Weights, dw: Weights, x: NDArray, h_prev: NDArray, c_prev: None, gates: NDArray, h: NDArray,
    c: None, dh: NDArray, dc: None, masks: Masks = NO_MASKS,
) -> tuple[NDArray, NDArray, None]:  # fmt: skip
    H = cell.hidden_size
    r, z, n = np.moveaxis(gates, 1, 0)[:3]
    keep = z if cell.update_gate == "keep" else 1 - z  # h_t = (1 - keep)*n + keep*h_{t-1}
    left, met = masked(n, masks.candidate), masked(h_prev, masks.state)
    dz = dh * (h_prev - left) if cell.update_gate == "keep" else dh * (left - h_prev)
    da_z = through_clip(cell, sigmoid, z, dz * z * (1 - z))
    da_n = through_clip(cell, np.tanh, n, masked(dh * (1 - keep), masks.candidate) * (1 - n * n))
    dh_prev = dh * keep
    if cell.reset_after:
        da_r = through_clip(cell, sigmoid, r, da_n * gates[:, 3] * r * (1 - r))
        da = np.concatenate([da_r, da_z, da_n], axis=1)
        da_h = np.concatenate([da_r, da_z, da_n * r], axis=1)
        dmet = state_backward(cell, w, dw, met, da_h, slice(None))
    else:
        drm = state_backward(cell, w, dw, r * met, da_n, slice(2 * H, None))  # gradient of r*h_{t-1}, as U meets it
        da_r = through_clip(cell, sigmoid, r, drm * met * r * (1 - r))
        da_rz = np.concatenate([da_r, da_z], axis=1)
        dmet = drm * r + state_backward(cell, w, dw, met, da_rz, slice(0, 2 * H))
        da = da_h = np.concatenate([da_rz, da_n], axis=1)
    add_bias_gradients(dw, da, da_h)
    return input_backward(cell, w, dw, x, da), dh_prev + masked(dmet, masks.state), None


# ---- sLSTM: c_t = f*c_{t-1} + i*z, n_t = f*n_{t-1} + i, h_t = o*c_t/n_t; i and f divided by e^m_t ----------------


def by_head(a: NDArray, heads: int) -> NDArray:
    """The last axis (H,) as (heads, H/heads)."""
    return a.reshape(*a.shape[:-1], heads, a.shape[-1] // heads)


def slstm_step(cell: SLSTMCell, w: Weights, x: NDArray, h: NDArray, c: NDArray) -> tuple[NDArray, NDArray, tuple]:
    N, H = cell.num_heads, cell.hidden_size
    heads, size = by_head(h, N), H // N  # of each gate and head a product, with rows of U, which may be narrow
    Uh = np.concatenate([heads[:, r % N] @ w.weight_hh[r * size : (r + 1) * size].T for r in range(4 * N)], axis=1)
    a_i, a_f, a_z, a_o = np.split(biased(x @ w.weight_ih.T, w.bias_ih) + biased(Uh, w.bias_hh), 4, axis=1)
    c, n, m = np.split(c, 3, axis=1)
    kept = m - np.logaddexp(0, -a_f)  # log(sigmoid(a_f)) + m
    kept = np.where(np.abs(n) >= np.finfo(n.dtype).tiny, kept, -np.inf)  # nothing of an empty state
    d = a_i - kept
    smaller = np.exp(-np.abs(d))
    i, f = np.where(d > 0, 1, smaller), np.where(d < 0, 1, smaller)
    z, o = np.tanh(a_z), sigmoid(a_o)
    c = f * c + i * z
    n = f * n + i
    m = np.where(d > 0, a_i, kept)
    return o * c / n, np.concatenate([c, n, m], axis=1), (i, f, z, o, sigmoid(-a_f))


def slstm_step_backward(
    cell: SLSTMCell, w: Weights, dw: Weights, x: NDArray, h_prev: NDArray, c_prev: NDArray, gates: NDArray, h: NDArray,
    c: NDArray, dh: NDArray, dc: NDArray,
) -> tuple[NDArray, NDArray, NDArray]:  # fmt: skip
    N, H = cell.num_heads, cell.hidden_size
    i, f, z, o, k = np.moveaxis(gates, 1, 0)
    (c, n, _), (c_prev, n_prev, _), (dc, dn, dm) = (np.split(a, 3, axis=1) for a in (c, c_prev, dc))
    dm = dm - (c * dc + n * dn)  # m scales c and n, but not c/n
    q = c / n
    da_o = dh * q * o * (1 - o)
    dc, dn = dc + dh * o / n, dn - dh * o * q / n
    dc_prev, dn_prev = dc * f, dn * f
    da_z = dc * i * (1 - z * z)
    da_i = i * (dc * z + dn) + np.where(i < 1, 0, dm)  # m = a_i where i is 1
    dkept = c_prev * dc_prev + n_prev * dn_prev + np.where(i < 1, dm, 0)
    da_f = dkept * k
    da = np.concatenate([da_i, da_f, da_z, da_o], axis=1)
    U, dU = (a.reshape(4, N, H // N, H // N) for a in (w.weight_hh, dw.weight_hh))
    da_h = da.reshape(len(da), 4, N, H // N)
    dU += np.einsum("bgnu,bnv->gnuv", da_h, by_head(h_prev, N))
    dw.weight_ih[...] += da.T @ x
    add_bias_gradients(dw, da, da)
    dh_prev = np.einsum("bgnu,gnuv->bnv", da_h, U).reshape(len(da), H)
    return da @ w.weight_ih, dh_prev, np.concatenate([dc_prev, dn_prev, dkept], axis=1)


# ---- minGRU: h_t = (1 - z)*h_{t-1} + z*n, minLSTM: h_t = (f*h_{t-1} + i*n)/(f + i); gates see x_t only ---------------

LEAST_GATE = -80.0  # of minLSTM: an a below counts as this, so that f + i is not 0


def candidate(cell: MinGRUCell | MinLSTMCell, a: NDArray) -> NDArray:
    """n, which is positive or a itself."""
    return np.where(a < 0, sigmoid(a), a + a.dtype.type(0.5)) if cell.nonlinearity == "positive" else a


def candidate_backward(cell: MinGRUCell | MinLSTMCell, n: NDArray, dn: NDArray) -> NDArray:
    """The gradient of a."""
    return np.where(n < 0.5, dn * n * (1 - n), dn) if cell.nonlinearity == "positive" else dn


def min_gru_step(cell: MinGRUCell, w: Weights, x: NDArray, h: NDArray, c: None) -> tuple[NDArray, None, tuple]:
    a_z, a_n = np.split(biased(x @ w.weight_ih.T, w.bias_ih), 2, axis=1)
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
    add_bias_gradients(dw, da, da)
    return input_backward(cell, w, dw, x, da), dh * (1 - z), None


def min_lstm_step(cell: MinLSTMCell, w: Weights, x: NDArray, h: NDArray, c: None) -> tuple[NDArray, None, tuple]:
    a_i, a_f, a_n = np.split(biased(x @ w.weight_ih.T, w.bias_ih), 3, axis=1)
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
    add_bias_gradients(dw, da, da)
    return input_backward(cell, w, dw, x, da), dh * kept, None


# By the cell's name in C, which says the options that change its equations.
STEP: dict[str, Callable[..., Any]] = {
    "rnn_tanh": rnn_step,
    "rnn_relu": rnn_step,
    "lstm": lstm_step,
    "lstm_coupled": lstm_coupled_step,
    "gru_after": gru_step,
    "gru_before": gru_step,
    "slstm": slstm_step,
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
    "slstm": slstm_step_backward,
    "min_gru": min_gru_step_backward,
    "min_lstm": min_lstm_step_backward,
}


# ---- What is random, and zoneout ------------------------------------------------------------------------------------


class Drawn:
    """The masks of a run's steps."""

    def __init__(self, cell: Cell, noise: StepNoise | None, B: int) -> None:
        self._cell, self._noise = cell, noise
        self._rows = np.arange(B) if noise is None or noise.rows is None else noise.rows

    def stays(self, what: str, probability: float, t: int, rows: Any, n: int) -> NDArray[np.bool_]:
        """Which of n values of each row stay at step t."""
        assert self._noise is not None
        number = ("h", "c", "candidate").index(what)
        step = self._noise.first_step + t
        return philox.stays(self._noise.key, number, self._rows[rows], step, n, probability)

    def masks(self, t: int, rows: Any) -> tuple[Masks, ...]:
        """What values of step t are multiplied by: the last argument of a step; none if nothing is random."""
        if self._noise is None:
            return ()
        p, state = self._noise.candidate, self._noise.state
        candidate = None
        if p:
            scale = self._cell.dtype.type(1 / (1 - p))
            candidate = self.stays("candidate", p, t, rows, self._cell.hidden_size) * scale
        return (Masks(candidate, None if state is None else state[rows]),)

    def zone(self, what: str, t: int, rows: Any, fresh: NDArray, before: NDArray) -> NDArray:
        """A state after zoneout: some values are those of the step before. Without noise all are what is expected."""
        p = self._cell.zoneouts[what == "c"]
        if not p:
            return fresh
        if self._noise is None:
            return before + fresh.dtype.type(1 - p) * (fresh - before)
        return np.where(self.stays(what, p, t, rows, fresh.shape[1]), fresh, before)

    def zone_backward(self, what: str, t: int, rows: Any, d: NDArray) -> tuple[NDArray, NDArray | float]:
        """The gradients of the new state and, around the step, of the state before."""
        p = self._cell.zoneouts[what == "c"]
        if not p:
            return d, 0.0
        stays = self.stays(what, p, t, rows, d.shape[1])
        return np.where(stays, d, d.dtype.type(0)), np.where(stays, d.dtype.type(0), d)


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

    def backward_steps(self, cell: Cell, B: int) -> int:
        """See `fastrnn.engines.Engine.backward_steps`."""
        return 1

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
    (cell, weights), steps, x, h0, c0, y, h_n, c_n, record, noise = run
    drawn = Drawn(cell, noise, len(h0))
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
            fresh_h, fresh_c, gates = step(cell, weights, x[here], h_prev, c_prev, *drawn.masks(t, rows))
            y[here] = h[rows] = drawn.zone("h", t, rows, fresh_h, h_prev)
            if c is not None and c_prev is not None:
                c_t = c[rows] = drawn.zone("c", t, rows, fresh_c, c_prev)
            if record is not None:
                for k, gate in enumerate(gates):
                    record.gates[here[0], here[1], k] = gate  # type: ignore[index]
                if record.cells is not None:
                    record.cells[here] = c_t
                if record.fresh is not None:
                    record.fresh[here] = fresh_h if c is None else fresh_c
    h_n[...] = h
    if c_n is not None:
        c_n[...] = c


def backward(run: BackwardArgs) -> None:
    """Differentiate one direction's run, step by step in the order opposite to its own."""
    (cell, weights), steps, x, y, h0, c0, record, dy, dh_n, dc_n, dx, adds_to_dx, dh0, dc0, dweights, noise, adds = run
    drawn = Drawn(cell, noise, len(h0))
    step_backward = STEP_BACKWARD[cell.native]
    dh, dc = dh_n.copy(), None if dc_n is None else dc_n.copy()
    for dweight in dweights:
        if dweight is not None and not adds:
            dweight[...] = 0
    if dx is not None and not adds_to_dx:
        dx[...] = 0
    with np.errstate(all="ignore"):
        visits = list(walk(x, steps))
        for t, rows, cut in reversed(visits):
            here = place(t, rows, steps)
            h_prev = zeroed(previous(y, h0, t, rows, steps), cut)
            h_t, c_prev, c_t = y[here], None, None
            if record.cells is not None and c0 is not None:
                c_prev, c_t = zeroed(previous(record.cells, c0, t, rows, steps), cut), record.cells[here]
            if record.fresh is not None:  # steps are those before zoneout
                h_t, c_t = (record.fresh[here], None) if c0 is None else (h_t, record.fresh[here])
            gates = None if record.gates is None else record.gates[here]
            dh_t = dh[rows] if dy is None else dh[rows] + dy[here]
            dc_t = None if dc is None else dc[rows]
            dh_t, dh_around = drawn.zone_backward("h", t, rows, dh_t)
            dc_t, dc_around = (None, 0.0) if dc_t is None else drawn.zone_backward("c", t, rows, dc_t)
            dx_t, dh_prev, dc_prev = step_backward(
                cell, weights, dweights, x[here], h_prev, c_prev, gates, h_t, c_t, dh_t, dc_t, *drawn.masks(t, rows)
            )
            dh_prev = dh_prev + dh_around
            if dx is not None:
                dx[here] += dx_t
            dh[rows] = zeroed(dh_prev, cut)  # nothing flows back through a reset
            if dc is not None:
                dc[rows] = zeroed(dc_prev + dc_around, cut)
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
