"""The fastest recurrent layers on a CPU, for people who hold NumPy arrays.

>>> layer = fastrnn.LSTM(input_size, hidden_size)
>>> y, state = layer(x)                                # inference
>>> y, state, tape = layer.forward(x)                  # training
>>> grads = layer.backward(tape, dy)
>>> stream = layer.freeze().stream()                   # one step at a time
>>> y_t = stream.step(x_t)
>>> layer = fastrnn.load("model.safetensors", prefix="encoder.rnn.")
"""

from fastrnn import engines, nn, optim, weights
from fastrnn.config import show_config
from fastrnn.frozen import Frozen, Stream
from fastrnn.layers import GRU, LSTM, RNN, Gradients, Tape
from fastrnn.threads import get_num_threads, num_threads, set_num_threads
from fastrnn.version import __version__
from fastrnn.weights import load, save

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Frozen",
    "Gradients",
    "Stream",
    "Tape",
    "__version__",
    "engines",
    "get_num_threads",
    "load",
    "nn",
    "num_threads",
    "optim",
    "save",
    "set_num_threads",
    "show_config",
    "weights",
]
