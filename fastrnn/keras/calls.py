"""Which layers and calls the kernels take, and in what form. All others are Keras's own, its errors included."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np

from fastrnn.engines.cell import CELLS, Cell

__all__ = ["KINDS", "Call", "recognise", "refusal"]

KINDS = {keras.layers.LSTM: "lstm", keras.layers.GRU: "gru", keras.layers.SimpleRNN: "rnn"}
CELL_CLASSES = {"lstm": keras.layers.LSTMCell, "gru": keras.layers.GRUCell, "rnn": keras.layers.SimpleRNNCell}
NONLINEARITIES = {keras.activations.tanh: "tanh", keras.activations.relu: "relu"}  # of a SimpleRNN
DTYPES: dict[str, np.dtype] = {
    "float64": np.dtype(np.float64),
    **dict.fromkeys(("float32", "float16", "bfloat16"), np.dtype(np.float32)),
}


class Call(NamedTuple):
    """A call that the kernels take, in the tensors of Keras's backend.

    Sequences run forwards, or x and the mask are to be reversed first, as Keras does.
    """

    cell: Cell  # its dtype is what is computed in; narrower tensors are widened to it
    x: Any  # (B, T, I)
    states: list[Any]  # (B, H): h and, of an LSTM, c
    weights: list[Any]  # kernel, recurrent_kernel and, if there is one, bias
    mask: Any  # (B, T), or None
    reverse: bool
    hold: bool  # whether masked steps repeat the last output, or are zero
    all_outputs: bool  # whether y is wanted at all steps, or at the last one

    def arrays(self) -> list[Any]:
        """All that is differentiated: x, states and weights."""
        return [self.x, *self.states, *self.weights]


def refusal(layer: Any) -> str:
    """Why the kernels take no call of a recurrent layer; empty if they take some."""
    kind = KINDS.get(type(layer))
    if kind is None:
        return f"a {type(layer).__name__}"
    cell = layer.cell
    if type(cell) is not CELL_CLASSES[kind]:
        return f"a cell of another class, {type(cell).__name__}"
    if kind == "rnn":
        if cell.activation not in NONLINEARITIES:
            return f"activation={_named(cell.activation)}"
        return ""
    if cell.activation is not keras.activations.tanh:
        return f"activation={_named(cell.activation)}"
    if cell.recurrent_activation is not keras.activations.sigmoid:
        return f"recurrent_activation={_named(cell.recurrent_activation)}"
    return ""


def recognise(layer: Any, x: Any, states: Any, mask: Any, training: Any) -> Call | str:
    """The call of a layer's `inner_loop` if the kernels take it, else why not."""
    why = refusal(layer)
    if why:
        return why
    cell, mask = layer.cell, mask[0] if isinstance(mask, (list, tuple)) else mask
    if mask is not None and (layer.unroll or keras.backend.standardize_dtype(mask.dtype) != "bool"):
        return "unroll=True with a mask" if layer.unroll else f"a mask of {mask.dtype}"
    if training and cell.recurrent_dropout:
        return "recurrent_dropout in training"
    if training and cell.dropout:
        drawn = cell.get_dropout_mask(x[:, 0, :])
        if isinstance(drawn, list) or cell.dropout >= 1:
            return "dropout in training of each gate apart (implementation=1)"
        x = x * drawn[:, None]
    bias = cell.bias if cell.use_bias else None
    weights = [keras.ops.convert_to_tensor(w) for w in (cell.kernel, cell.recurrent_kernel, bias) if w is not None]
    states = list(states) if isinstance(states, (list, tuple)) else [states]
    names = {keras.backend.standardize_dtype(a.dtype) for a in (x, *states, *weights)}
    name = names.pop()
    if names or name not in DTYPES:
        return f"tensors of {', '.join(sorted(names | {name}))}"
    kind = KINDS[type(layer)]
    options = {
        "lstm": lambda: {},
        "gru": lambda: {"reset_after": cell.reset_after},
        "rnn": lambda: {"nonlinearity": NONLINEARITIES[cell.activation]},
    }[kind]()
    described = CELLS[kind](weights[0].shape[0], cell.units, DTYPES[name], bias is not None, **options)
    fits = len(x.shape) == 3 and x.shape[2] == described.input_size and x.shape[1] != 0 and x.shape[0] != 0
    fits = fits and len(states) == 1 + described.has_c
    if not fits or (mask is not None and tuple(mask.shape) != tuple(x.shape[:2])):
        return f"x of {tuple(x.shape)}"
    if any(tuple(h.shape) != (x.shape[0], cell.units) for h in states):
        return f"a state of {tuple(states[0].shape)}"
    hold = mask is not None and not layer.zero_output_for_mask
    return Call(described, x, states, weights, mask, layer.go_backwards, hold, layer.return_sequences)


def _named(activation: Any) -> str:
    return repr(getattr(activation, "__name__", activation))
