"""Keras 3's recurrent layers, run by fastrnn's kernels: the same model, weights and results, on the CPU.

>>> fastrnn.keras.accelerate(model)   # every LSTM, GRU and SimpleRNN in it, in Bidirectional, too; in place
>>> fastrnn.keras.explain(model)      # which layers run here, which stay with Keras, and why

`fastrnn.nn.from_keras` makes a model of fastrnn's own instead, which needs no Keras.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from fastrnn.pages import needs

try:
    import keras
except ImportError as error:
    raise ImportError(needs("fastrnn.keras", "Keras 3", "keras", "how-to/keras"), name=error.name) from error

from fastrnn.keras.calls import KINDS, refusal
from fastrnn.keras.inner_loop import InnerLoop

__all__ = ["Placement", "accelerate", "explain", "restore"]

Model = TypeVar("Model", bound=keras.layers.Layer)


class Placement(NamedTuple):
    """What runs a recurrent layer.

    Attributes
    ----------
    layer : str
        The layer's path in the model.
    runs_on : {"fastrnn", "keras"}
        What the last call ran on; before the first call, what calls will run on.
    why : str
        Why it is Keras; empty for fastrnn.
    """

    layer: str
    runs_on: str
    why: str


def accelerate(model: Model) -> Model:
    """Let fastrnn's kernels run every keras.layers.LSTM, GRU and SimpleRNN inside a model, in place.

    The model stays Keras's: layers keep their class, weights, names and configuration, and files that it is saved to
    do not know of fastrnn. Weights are read at each call. A call that the kernels do not take is run by Keras; see
    `explain` and docs/how-to/keras.md. With PyTorch as the backend training is accelerated, too, with others inference.

    Parameters
    ----------
    model : keras.Model or keras.layers.Layer
        Itself included.

    Returns
    -------
    keras.Model or keras.layers.Layer
        `model`.

    Raises
    ------
    TypeError
        If `model` is neither.
    """
    for layer in _layers(model):
        if type(layer) in KINDS and not isinstance(vars(layer).get("inner_loop"), InnerLoop):
            layer.inner_loop = InnerLoop(layer)
    _forget_compiled(model)
    return model


def restore(model: Model) -> Model:
    """Undo `accelerate`: hand every recurrent layer inside a model back to Keras, in place.

    Parameters, returns and errors are those of `accelerate`.
    """
    for layer in _layers(model):
        if isinstance(inner := vars(layer).get("inner_loop"), InnerLoop):
            inner.end()
            del layer.inner_loop
    _forget_compiled(model)
    return model


def explain(model: keras.layers.Layer) -> list[Placement]:
    """Say of each recurrent layer in a model what runs it, and if that is Keras, why.

    Parameters
    ----------
    model : keras.Model or keras.layers.Layer
        Itself included.

    Returns
    -------
    list of Placement
        In the model's order.

    Raises
    ------
    TypeError
        If `model` is neither.
    """
    found = []
    for layer in _layers(model):
        if isinstance(layer, keras.layers.RNN):
            inner = vars(layer).get("inner_loop")
            why = inner.refused if isinstance(inner, InnerLoop) else "not accelerated"
            why = refusal(layer) or why
            found.append(Placement(layer.path or layer.name, "keras" if why else "fastrnn", why))
    return found


def _layers(model: Any) -> list[Any]:
    """A layer and all layers inside it."""
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"model: expected a keras.Model or a layer, got {type(model).__name__}")
    return list(model._flatten_layers())


def _forget_compiled(model: Any) -> None:
    """Have Keras compile the functions of `fit`, `evaluate` and `predict` once more, with what the layers are now."""
    for part in _layers(model):
        if isinstance(part, keras.Model):
            part.train_function = part.test_function = part.predict_function = None
            if keras.config.backend() == "tensorflow" and part.compiled and part.jit_compile:
                part.jit_compile = part._resolve_auto_jit_compile()
