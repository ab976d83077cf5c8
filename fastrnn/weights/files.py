"""Layers in files: their parameters, and beside these the options that parameters do not show."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fastrnn import serialization, validate
from fastrnn.engines.cell import CELLS
from fastrnn.formats import keras, torch
from fastrnn.formats.reading import json_object, refusing
from fastrnn.weights.keras import from_keras
from fastrnn.weights.parts import Layer, checked
from fastrnn.weights.torch import from_names, from_torch

__all__ = ["describe", "load", "rebuild", "save"]


def save(
    path: str | os.PathLike[str], layer: Layer, prefix: str = "", metadata: Mapping[str, str] | None = None
) -> None:
    """Write a layer to a file: its state dict, and its options as metadata.

    Parameters
    ----------
    path : path-like
        Ends in .npz or .safetensors, which selects the format.
    layer : RNN, LSTM or GRU
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
    tensors = {prefix + name: value for name, value in layer.params.items()}
    serialization.save(path, tensors, {**(metadata or {}), **words})


def load(
    path: str | os.PathLike[str], prefix: str = "", *, kind: str | None = None, dtype: Any = None,
    max_bytes: int | None = None, **options: Any,
) -> Layer:  # fmt: skip
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
    RNN, LSTM or GRU

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
) -> Layer:  # fmt: skip
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


_READERS: dict[str, Callable[..., Layer]] = {
    **dict.fromkeys(serialization.FORMATS, _load_arrays),
    **dict.fromkeys(torch.SUFFIXES, _load_torch),
    **dict.fromkeys(keras.SUFFIXES, _load_keras),
}


def describe(layer: Layer, prefix: str) -> dict[str, str]:
    """What a file says of a layer besides its parameters: the options that these do not show, under one key."""
    cell = checked(layer).cell
    options = {"kind": cell.kind, "batch_first": layer.batch_first, "dropout": layer.dropout} | cell.hidden_options
    return {_word(prefix): json.dumps(options)}


def rebuild(
    tensors: Mapping[str, NDArray], words: Mapping[str, str], prefix: str, kind: str | None = None, dtype: Any = None,
    options: Mapping[str, Any] | None = None,
) -> Layer:  # fmt: skip
    """The layer of a file's tensors and words; arguments and errors as for `load`."""
    saved = json_object(words.get(_word(prefix), "{}"), _word(prefix))
    known = {"kind", "batch_first", "dropout"}.union(*(cell.defaults() for cell in CELLS.values()))
    if not saved.keys() <= known:
        raise ValueError(f"{_word(prefix)}: expected some of {sorted(known)}, got {sorted(saved)}")
    saved_kind = saved.pop("kind", None)
    return from_names(tensors, prefix, kind or saved_kind, dtype, saved | dict(options or {}), keeps=False)


def _word(prefix: str) -> str:
    """The key of a layer's options among a file's metadata."""
    return f"fastrnn.layer:{prefix}"
