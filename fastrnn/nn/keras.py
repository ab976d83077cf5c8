"""Models of Keras's as chains: from a model in this process, or from its file, which needs no Keras."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import weights
from fastrnn.formats import keras
from fastrnn.formats.reading import refusing
from fastrnn.nn.chain import Chain, Masking, Recurrence
from fastrnn.nn.layers import Activation, Dropout, Embedding, Linear
from fastrnn.pages import page
from fastrnn.weights.parts import as_array

__all__ = ["from_keras"]

NEUTRAL = ("InputLayer", "SpatialDropout1D", "GaussianDropout", "GaussianNoise", "ActivityRegularization")
LOSSES = {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy"}
OPERATIONS = ("NotEqual", "Any")  # from which Keras makes the masks of `Masking` and `Embedding`

Described = dict[str, Any]
Parts = list[tuple[str, Any]]


def from_keras(model: Any, *, loss: str | None = None, max_bytes: int | None = None) -> Chain:
    """Build a model from one of Keras 3's (from a file, also of Keras 2's), that predicts the same.

    It may be made of Input, Masking, Embedding, LSTM, GRU, SimpleRNN, Bidirectional, Dropout, Dense, Activation and
    TimeDistributed of the last three, one after the other: Sequential, or a functional model that is a chain.

    Parameters
    ----------
    model : keras.Model or path-like
        A model, or a file of one, which ends in .keras or .h5. A file needs h5py, and no Keras.
    loss : {"cross_entropy", "binary_cross_entropy", "mse"}, optional
        As for `Chain`. Default: what fits the last activation, softmax, sigmoid, or another one.
    max_bytes : int, optional
        As for `fastrnn.serialization.load`.

    Returns
    -------
    Chain
        Its parts have the names of Keras's layers. As everywhere in this package, time comes first: ``chain(x)`` is
        Keras's ``model(x)`` with the axes of batch and time exchanged, in x and, if there is an output at each step, in
        the result. Dropout is kept as the chain's own, but not that inside recurrent layers, which acts in training
        only, nor are Keras's other kinds of it.

    Raises
    ------
    TypeError
        If `model` is neither.
    ValueError
        If a layer cannot be carried over; the message names it. If the file is damaged, holds no model or takes more
        than `max_bytes`.
    ImportError
        If h5py is needed and not installed.
    OSError
        If the file cannot be read.
    """
    if isinstance(model, (str, os.PathLike)):
        if not os.fspath(model).lower().endswith(keras.SUFFIXES):
            raise ValueError(f"model: expected a path that ends in {' or '.join(keras.SUFFIXES)}, got {model!r}")
        config, arrays = keras.model(model, max_bytes)
        with refusing(model):
            return _built(config, arrays, loss)
    if not callable(getattr(model, "get_layer", None)) or not callable(getattr(model, "get_config", None)):
        raise TypeError(f"model: expected a keras.Model or a path, got {type(model).__name__}")
    found = {layer.name: [np.asarray(a) for a in layer.get_weights()] for layer in model.layers}
    return _built({"class_name": type(model).__name__, "config": model.get_config()}, found, loss)


def _built(config: Described, arrays: Mapping[str, list[NDArray]], loss: str | None) -> Chain:
    """The chain of a model's configuration and the arrays of its layers."""
    parts: dict[str, Any] = {}
    for described in _layers(config):
        name = described["config"]["name"]
        try:
            floats = [
                as_array(f"weights[{k}]", a) for k, a in enumerate(arrays.get(name, ())) if a.dtype.kind not in "iu"
            ]
            found = _parts(described, floats)
        except (ValueError, TypeError, KeyError) as error:
            text = f"no {error} in its configuration" if isinstance(error, KeyError) else error
            raise ValueError(f"layer {name!r} ({described['class_name']}): {text}") from None
        for suffix, part in found:
            parts[(name + suffix).replace(".", "_")] = part
    last = next(reversed(parts.values()), None)
    kind = last.kind if isinstance(last, Activation) else ""
    return Chain(parts, loss=LOSSES.get(kind, "mse") if loss is None else loss)


# ---- Which layers, in which order -----------------------------------------------------------------------------------


def _layers(model: Described) -> Iterator[Described]:
    """The descriptions of a model's layers, from its input to its output."""
    config = model["config"]
    layers = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(layers, list):
        raise ValueError(f"model: expected a Sequential model or a functional one, got a {model.get('class_name')}")
    if not any("inbound_nodes" in layer for layer in layers):
        yield from layers
        return
    named = {layer.get("name", layer["config"].get("name")): layer for layer in layers}
    order: list[str] = []
    name = _only("output", config["output_layers"])
    while True:
        order.append(name)
        inputs = _inputs(name, named[name])
        if not inputs:
            break
        if len(inputs) > 1 or len(order) > len(named):
            raise ValueError(f"layer {name!r}: expected one that reads one other, got one that reads {inputs}")
        name = inputs[0]
    order.reverse()
    for other, layer in named.items():
        if other in order:
            continue
        if layer["class_name"] not in OPERATIONS or not _is_own_mask(layer, named):
            raise ValueError(f"layer {other!r} ({layer['class_name']}): expected layers that are one chain")
    yield from (named[name] for name in order)


def _inputs(name: str, layer: Described) -> list[str]:
    """The names of the layers that a layer of a functional model reads, but for its mask."""
    nodes = layer["inbound_nodes"]
    if len(nodes) > 1:
        raise ValueError(f"layer {name!r}: expected one that is used once, got {len(nodes)} uses")
    if not nodes:
        return []
    if isinstance(nodes[0], dict):
        kwargs = {key: value for key, value in nodes[0].get("kwargs", {}).items() if key != "mask"}
        return list(_histories([nodes[0]["args"], kwargs]))
    return [node[0] for node in nodes[0]]  # of Keras 2


def _histories(value: Any) -> Iterator[str]:
    """The names of the layers that gave the tensors in a node's arguments."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield value["config"]["keras_history"][0]
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _histories(item)


def _is_own_mask(operation: Described, named: Mapping[str, Described]) -> bool:
    """Whether an operation makes the mask of a Masking or an Embedding that reads the same: `x != value`, or any."""
    if operation["class_name"] == "Any":
        below = [named[name] for name in _histories(operation["inbound_nodes"])]
        return len(below) == 1 and below[0]["class_name"] == "NotEqual" and _is_own_mask(below[0], named)
    (tensor, value), *_ = (node["args"] for node in operation["inbound_nodes"])
    source = list(_histories(tensor))
    for layer in named.values():
        config = layer["config"]
        hidden = {"Masking": config.get("mask_value"), "Embedding": 0 if config.get("mask_zero") else None}
        if hidden.get(layer["class_name"]) == value and list(_histories(layer["inbound_nodes"]))[:1] == source:
            return True
    return False


def _only(what: str, ends: Any) -> str:
    """The name of a functional model's only output."""
    while isinstance(ends, (list, tuple)) and len(ends) == 1:
        (ends,) = ends
    if not (isinstance(ends, (list, tuple)) and isinstance(ends[0], str)):
        raise ValueError(f"model: expected one {what}, got {len(ends)}")
    return ends[0]


# ---- What each layer becomes ----------------------------------------------------------------------------------------


def _parts(described: Described, arrays: list[NDArray]) -> Parts:
    """The parts that a layer becomes, each with what is put behind the layer's name."""
    kind, config = described["class_name"], described["config"]
    if kind in NEUTRAL:
        return []
    if kind == "TimeDistributed":
        inner = config["layer"]
        if inner["class_name"] not in ("Dense", "Dropout", "Activation"):
            raise ValueError(f"expected TimeDistributed of Dense, Dropout or Activation, got {inner['class_name']}")
        return _parts(inner, arrays)
    if kind not in _MADE:
        known = ", ".join([*_MADE, "TimeDistributed", *NEUTRAL])
        raise ValueError(f"expected one of {known}, got {kind}; {page('how-to/keras')}")
    return _MADE[kind](described, config, arrays)


def _masking(described: Described, config: Described, arrays: list[NDArray]) -> Parts:
    return [("", Masking(config.get("mask_value", 0.0)))]


def _embedding(described: Described, config: Described, arrays: list[NDArray]) -> Parts:
    (table,) = _counted(arrays, 1)
    embedding = Embedding.from_arrays({"weight": table})
    return [*([("_mask", Masking(0))] if config.get("mask_zero") else []), ("", embedding)]


def _dropout(described: Described, config: Described, arrays: list[NDArray]) -> Parts:
    return [("", Dropout(config["rate"]))]


def _dense(described: Described, config: Described, arrays: list[NDArray]) -> Parts:
    kernel, *bias = _counted(arrays, 1 + bool(config.get("use_bias", True)))
    named = {"weight": np.ascontiguousarray(kernel.T)} | dict(zip(["bias"], bias, strict=False))
    return [("", Linear.from_arrays(named)), *_activation(described, config, [])]


def _activation(described: Described, config: Described, arrays: list[NDArray]) -> Parts:
    name = config.get("activation") or "linear"
    if name not in ("linear", "tanh", "relu", "sigmoid", "softmax"):
        raise ValueError(f"expected activation linear, tanh, relu, sigmoid or softmax, got {name!r}")
    return [] if name == "linear" else [("_activation" if "units" in config else "", Activation(name))]


def _recurrent(described: Described, config: Described, arrays: list[NDArray]) -> Parts:
    return [("", _recurrence(described, arrays, False, {}))]


def _bidirectional(described: Described, config: Described, arrays: list[NDArray]) -> Parts:
    inner, backward = config["layer"], config.get("backward_layer") or config["layer"]
    names = ("units", "return_sequences", "use_bias", "zero_output_for_mask")
    shown = [[layer["class_name"], keras.options(layer, forwards=False)] for layer in (inner, backward)]
    shown = [[*own, *map(layer["config"].get, names)] for own, layer in zip(shown, (inner, backward), strict=True)]
    if shown[0] != shown[1] or inner["config"].get("go_backwards"):
        raise ValueError("expected two equal layers, the first of which runs forwards, got others")
    if config.get("merge_mode") is None:
        raise ValueError("expected merge_mode 'concat', 'sum', 'ave' or 'mul', got None")
    return [("", _recurrence(inner, arrays, True, {"merge": config["merge_mode"]}))]


def _recurrence(described: Described, arrays: list[NDArray], bidirectional: bool, more: Described) -> Recurrence:
    """One layer of Keras's, or two directions."""
    config = described["config"]
    for name in ("stateful", "return_state"):
        if config.get(name):
            raise ValueError(f"expected {name}=False, got True")
    directions = 1 + bidirectional
    _counted(arrays, directions * (2 + bool(config.get("use_bias", True))))
    options = keras.options(described, forwards=False)
    rnn = weights.from_keras([arrays], bidirectional=bidirectional, batch_first=False, **options)
    return Recurrence(
        rnn, returns="sequence" if config.get("return_sequences") else "last",
        reverse=bool(config.get("go_backwards")), masked_output=_masked_output(config, bidirectional), **more,
    )  # fmt: skip


def _masked_output(config: Described, bidirectional: bool) -> str:
    zero = config.get("return_sequences") if bidirectional else config.get("zero_output_for_mask")
    return "zero" if zero else "hold"


def _counted(arrays: list[NDArray], count: int) -> list[NDArray]:
    if len(arrays) != count:
        raise ValueError(f"expected {count} arrays of weights, got {len(arrays)}; a model has to be built")
    return arrays


_MADE: dict[str, Callable[[Described, Described, list[NDArray]], Parts]] = {
    "Masking": _masking,
    "Embedding": _embedding,
    "Bidirectional": _bidirectional,
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), _recurrent),
    "Dropout": _dropout,
    "Dense": _dense,
    "Activation": _activation,
}
