"""Layers in files, frozen or not: their parameters, and beside these the options that parameters do not show."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import arguments, engines, serialization, validate
from fastrnn.engines.cell import CELLS
from fastrnn.engines.precision import restored
from fastrnn.formats import keras, torch
from fastrnn.formats.reading import json_object, refusing
from fastrnn.frozen import Frozen, checked_precision
from fastrnn.noise import Dropouts
from fastrnn.weights.keras import from_keras
from fastrnn.weights.parts import Layer, checked
from fastrnn.weights.torch import from_names, from_torch

__all__ = ["describe", "load", "rebuild", "save", "write"]


def save(
    path: str | os.PathLike[str], layer: Layer | Frozen, prefix: str = "", metadata: Mapping[str, str] | None = None
) -> None:
    """Write a layer to a file: its state dict, and its options as metadata.

    The weights of a frozen layer are written as they are kept: as int8, with the scales of the rows beside them as
    "weight_ih_l0.scale", or as bfloat16, of which an .npz has the bits as uint16.

    Parameters
    ----------
    path : path-like
        Ends in .npz or .safetensors, which selects the format.
    layer : RNN, LSTM, GRU or Frozen
    prefix : str, default ""
        What to put before the parameters' names.
    metadata : mapping of str to str, optional
        More words to keep.

    Raises
    ------
    TypeError, ValueError, OSError
        As `fastrnn.serialization.save`, which stores any arrays.
    """
    words = describe(layer, prefix)
    write(path, {prefix + name: value for name, value in layer.params.items()}, {**(metadata or {}), **words})


def write(path: str | os.PathLike[str], params: Mapping[str, NDArray], words: Mapping[str, str]) -> None:
    """Write parameters, those of frozen layers as they are kept, and words to a file."""
    halves = [name for name, value in params.items() if value.dtype == np.uint16]  # no other parameter is uint16
    serialization.save(path, params, words, bfloat16=halves)


def load(
    path: str | os.PathLike[str], prefix: str = "", *, kind: str | None = None, dtype: Any = None,
    max_bytes: int | None = None, **options: Any,
) -> Any:  # fmt: skip
    """Read a layer from a file: one that `save` wrote, a state dict of PyTorch's, or a model of Keras's.

    Parameters
    ----------
    path : path-like
        The suffix selects the format: .npz or .safetensors with the names of PyTorch's state dicts; .pt or .pth as
        torch.save writes them, which needs PyTorch; .keras, .weights.h5 or .h5 as Keras 2 and 3 write them, which
        needs h5py.
    prefix : str, default ""
        What the layer's names begin with, say "encoder.rnn."; other names in the file are left alone. In a .pt file,
        names of dicts in dicts are joined by dots, as in "model.encoder.rnn.". For a file of Keras's it is the layer's
        name; it may stay "" where the file has one recurrent layer.
    kind, dtype, **options
        As for `from_torch`; for a file of Keras's as for `from_keras`. They go before what the file says. But
        parameters that `save` wrote are taken as they are, whatever `update_gate` says.
    max_bytes : int, optional
        As for `fastrnn.serialization.load`.

    Returns
    -------
    RNN, LSTM, GRU or Frozen
        `Frozen` if the layer was frozen when it was saved; its weights have the same bits, and the engine is the one in
        force now.

    Raises
    ------
    TypeError
        If `kind`, `dtype`, `prefix` or `max_bytes` has a wrong type.
    ValueError
        If the file is damaged, has no such layer or takes more than `max_bytes`, or an option does not fit. The
        message names the path.
    ImportError
        If the package that the format needs is not installed. The message says how to do without.
    OSError
        If the file cannot be read.
    """
    read = _READERS.get(Path(path).suffix.lower())
    if read is None:
        raise ValueError(f"path: expected a name that ends in {', '.join(_READERS)}, got {os.fspath(path)!r}")
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected str, got {type(prefix).__name__}")
    kind = None if kind is None else validate.choice("kind", kind, tuple(CELLS))
    dtype = None if dtype is None else validate.dtype(dtype)
    return read(path, prefix, kind, dtype, max_bytes, options)


def _load_arrays(
    path: str | os.PathLike[str], prefix: str, kind: str | None, dtype: Any, max_bytes: int | None,
    options: dict[str, Any],
) -> Layer | Frozen:  # fmt: skip
    tensors, words = serialization.load(path, max_bytes=max_bytes)
    with refusing(path):
        return rebuild(tensors, words, prefix, kind, dtype, options)


def _load_torch(
    path: str | os.PathLike[str], prefix: str, kind: str | None, dtype: Any, max_bytes: int | None,
    options: dict[str, Any],
) -> Layer:  # fmt: skip
    tensors = torch.state_dict(path, max_bytes)
    with refusing(path):
        return from_torch(tensors, prefix, kind=kind, dtype=dtype, **options)


def _load_keras(
    path: str | os.PathLike[str], prefix: str, kind: str | None, dtype: Any, max_bytes: int | None,
    options: dict[str, Any],
) -> Layer:  # fmt: skip
    arrays, saved = keras.layer(path, prefix, max_bytes)
    with refusing(path):
        layer = from_keras(arrays, dtype=dtype, **(saved | options))
        if kind not in (None, layer.cell.kind):
            raise ValueError(f"kind: expected weights of {kind!r}, got those of {layer.cell.kind!r}")
        return layer


_READERS: dict[str, Callable[..., Layer | Frozen]] = {
    **dict.fromkeys(serialization.FORMATS, _load_arrays),
    **dict.fromkeys(torch.SUFFIXES, _load_torch),
    **dict.fromkeys(keras.SUFFIXES, _load_keras),
}


def describe(layer: Layer | Frozen, prefix: str) -> dict[str, str]:
    """What a file says of a layer besides its parameters: the options that these do not show, under one key.

    A frozen layer has no dropout. It has the precision of each of its layers, even if it is their dtype.
    """
    more: dict[str, Any]
    if isinstance(layer, Frozen):
        one = isinstance(layer.precision, str)
        more = {"precision": [layer.precision] * layer.num_layers if one else list(layer.precision)}
    else:
        own = checked(layer)._dropouts._asdict()
        more = {"dropout": layer.dropout} | {name: value for name, value in own.items() if value}
    options = {"kind": layer.cell.kind, "batch_first": layer.batch_first} | more | layer.cell.hidden_options
    return {_word(prefix): json.dumps(options)}


def rebuild(
    tensors: Mapping[str, NDArray], words: Mapping[str, str], prefix: str, kind: str | None = None, dtype: Any = None,
    options: Mapping[str, Any] | None = None,
) -> Layer | Frozen:  # fmt: skip
    """The layer of a file's tensors and words; arguments and errors as for `load`."""
    saved = json_object(words.get(_word(prefix), "{}"), _word(prefix))
    known = {"kind", "batch_first", "dropout", "precision", *Dropouts._fields}
    known = known.union(*(cell.defaults() for cell in CELLS.values()))
    if not saved.keys() <= known:
        raise ValueError(f"{_word(prefix)}: expected some of {sorted(known)}, got {sorted(saved)}")
    saved_kind, precision = saved.pop("kind", None), saved.pop("precision", None)
    kind, options = kind or saved_kind, saved | dict(options or {})
    if precision is None:
        return from_names(tensors, prefix, kind, dtype, options, None)
    return _frozen(tensors, prefix, kind, dtype, options, precision)


def _frozen(
    tensors: Mapping[str, NDArray], prefix: str, kind: str | None, dtype: Any, options: dict[str, Any], precision: Any
) -> Frozen:
    """A frozen layer whose matrices are kept in these precisions, one for each layer."""
    # All checks but those of fewer bits are a layer's, which gets zeros for them.
    wide = {
        name: np.broadcast_to(np.float32(0), a.shape) if a.dtype in (np.int8, np.uint16) else a
        for name, a in tensors.items()
        if name.startswith(f"{prefix}weight_") or a.dtype not in (np.int8, np.uint16)
    }
    layer = from_names(wide, prefix, kind, None, options, None)
    if dtype is not None and dtype != layer.dtype:
        raise ValueError(f"dtype: expected {layer.dtype}, that of a frozen layer, got {dtype}")
    stack = layer._stack
    chosen = checked_precision(stack, precision)
    weights = arguments.weights(stack, layer.params)
    for k, w in enumerate(weights):
        names = {field: prefix + name for field, (name, _) in stack.names(k).items() if field.startswith("weight")}
        own = chosen[k // len(stack.directions)]
        matrices: dict[str, Any] = {field: restored(name, tensors, own) for field, name in names.items()}
        weights[k] = w._replace(**matrices)
    return Frozen(stack, engines.current(), weights, arguments.initial_state(stack, layer.params), chosen)


def _word(prefix: str) -> str:
    """The key of a layer's options among a file's metadata."""
    return f"fastrnn.layer:{prefix}"
