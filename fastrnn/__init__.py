"""The fastest recurrent layers on a CPU, for people who hold NumPy arrays.

>>> layer = fastrnn.LSTM(input_size, hidden_size)
>>> y, state = layer(x)                                # inference
>>> y, state, tape = layer.forward(x)                  # training
>>> grads = layer.backward(tape, dy)
>>> stream = layer.freeze().stream()                   # one step at a time
>>> y_t = stream.step(x_t)
>>> layer = fastrnn.load("model.safetensors", prefix="encoder.rnn.")

Around them, imported when first used (docs/kit.md): `fastrnn.nn`, `optim`, `data`, `train`, `distributed`, `metrics`,
`inspect`.
"""

import importlib
from typing import TYPE_CHECKING, Any

try:
    from fastrnn import engines
    from fastrnn.config import get_include, show_config
except ValueError as error:  # of an environment variable, which these read
    from fastrnn.cli import end_if_running

    end_if_running(error)
    raise
from fastrnn import weights
from fastrnn._core.native import C_API as _C_API  # noqa: F401 (extensions find it here)
from fastrnn.engines import threadpoolctl as _threadpoolctl  # noqa: F401 (registers there)
from fastrnn.engines.threads import (
    get_num_threads,
    get_threading,
    num_threads,
    set_num_threads,
    set_threading,
)
from fastrnn.frozen import Frozen, Stream
from fastrnn.layers import GRU, LSTM, RNN, SLSTM, Gradients, MinGRU, MinLSTM, Tape
from fastrnn.params import RowGradient
from fastrnn.version import __version__
from fastrnn.weights import load, save

if TYPE_CHECKING:
    from fastrnn import data, distributed, inspect, metrics, nn, optim, train

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "Frozen",
    "Gradients",
    "MinGRU",
    "MinLSTM",
    "RowGradient",
    "Stream",
    "Tape",
    "__version__",
    "data",
    "distributed",
    "engines",
    "get_include",
    "get_num_threads",
    "get_threading",
    "inspect",
    "load",
    "metrics",
    "nn",
    "num_threads",
    "optim",
    "save",
    "set_num_threads",
    "set_threading",
    "show_config",
    "train",
    "weights",
]

# A service that runs a layer needs none of these.
_WHEN_USED = ("data", "distributed", "inspect", "metrics", "nn", "optim", "train")


def __getattr__(name: str) -> Any:
    if name in _WHEN_USED:
        return importlib.import_module(f"fastrnn.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
