"""How patterns join their parts: states of recurrent layers as vectors, and steps of padded sequences as rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn.frozen import Frozen
from fastrnn.layers import LSTM, Recurrent
from fastrnn.stack import StackOwner, State

__all__ = [
    "checked",
    "d_final",
    "final",
    "join_state",
    "pack",
    "set_forget_bias",
    "split_state",
    "state_size",
    "unpack",
]


def set_forget_bias(layer: Recurrent, value: float = 1.0) -> None:
    """Set the biases of an LSTM's forget gates, so that at the start of training they are open and pass gradients on.

    Parameters
    ----------
    layer : LSTM
        With biases. It is changed in place: for the forget gates, bias_ih becomes `value` and bias_hh 0.
    value : float, default 1.0
        Usual values are 1 and 2. With 0 a gate is half open.

    Raises
    ------
    TypeError, ValueError
        If the layer is not an LSTM, or has no biases or no forget gate.

    References
    ----------
    F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to forget" (2000); R. Jozefowicz, W. Zaremba, I. Sutskever, "An
    empirical exploration of recurrent network architectures" (2015).
    """
    if not isinstance(layer, LSTM):
        raise TypeError(f"layer: expected an LSTM, got {type(layer).__name__}")
    names = [name for name in layer.params if name.startswith("bias_")]
    if not names:
        raise ValueError("layer: expected an LSTM with biases, got one without")
    if "f" not in layer.cell.gates:
        raise ValueError("layer: expected an LSTM with a forget gate of its own, got one without")
    start = layer.cell.gates.index("f") * layer.hidden_size
    for name in names:
        layer.params[name][start : start + layer.hidden_size] = value if name.startswith("bias_ih") else 0


def checked(name: str, layer: Any, reads: int | None = None) -> Any:
    """Return the layer, after checking that time comes first and, if `reads` is given, the input size."""
    if not isinstance(layer, (Recurrent, Frozen)):
        raise TypeError(f"{name}: expected an RNN, LSTM or GRU, got {type(layer).__name__}")
    if layer.batch_first:
        raise ValueError(f"{name}: expected batch_first=False, got True")
    if reads is not None and layer.input_size != reads:
        raise ValueError(f"{name}: expected input_size {reads}, what it reads, got {layer.input_size}")
    return layer


def final(layer: StackOwner, state: State) -> NDArray:
    """Return the final h of the last layer, (B, D*O), with both directions joined."""
    h = state[0] if isinstance(state, tuple) else state
    D = 1 + layer.bidirectional
    return np.concatenate(h[-D:], axis=-1)


def d_final(layer: StackOwner, state: State, d: NDArray) -> State:
    """Return the gradient of the final state, given that of `final`."""
    D = 1 + layer.bidirectional
    dh = np.zeros_like(state[0] if isinstance(state, tuple) else state)
    dh[-D:] = np.split(d, D, axis=-1)
    return (dh, *map(np.zeros_like, state[1:])) if isinstance(state, tuple) else dh


def state_size(layer: Recurrent | Frozen) -> int:
    """Return how many values the state of one row has. A layer whose output is the state must have this output size."""
    if not isinstance(layer, (Recurrent, Frozen)):
        raise TypeError(f"layer: expected an RNN, LSTM or GRU, got {type(layer).__name__}")
    return sum(L * size for L, _, size in layer.state_shapes(1))


def split_state(layer: StackOwner, flat: NDArray) -> State:
    """Return the state whose values are `flat`, (B, `state_size`): first h of all layers, then c and so on."""
    parts, start = [], 0
    for L, B, size in layer.state_shapes(len(flat)):
        part = flat[:, start : start + L * size].reshape(B, L, size)
        parts.append(np.ascontiguousarray(part.swapaxes(0, 1)))
        start += L * size
    return parts[0] if len(parts) == 1 else tuple(parts)


def join_state(state: State) -> NDArray:
    """The inverse of `split_state`."""
    parts = state if isinstance(state, tuple) else (state,)
    return np.concatenate([part.swapaxes(0, 1).reshape(part.shape[1], -1) for part in parts], axis=1)


def pack(a: NDArray, lengths: NDArray | None) -> NDArray:
    """Return the valid steps of (T, B, ...) as rows (N, ...), so that no padding is computed afterwards."""
    if lengths is None:
        return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])
    return a[np.arange(len(a))[:, None] < lengths]


def unpack(rows: NDArray, like: NDArray, lengths: NDArray | None) -> NDArray:
    """The inverse of `pack` for rows (N, size): (T, B, size), zero after the end of a sequence."""
    shape = (*like.shape[:2], rows.shape[-1])
    if lengths is None:
        return rows.reshape(shape)
    result = np.zeros(shape, rows.dtype)
    result[np.arange(shape[0])[:, None] < lengths] = rows
    return result
