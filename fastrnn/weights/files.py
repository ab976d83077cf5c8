"""Layers in files: their parameters, and beside these the options that parameters do not show."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from fastrnn import serialization
from fastrnn.weights.parts import Layer, checked
from fastrnn.weights.torch import from_names

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
    TypeError, ValueError, ImportError, OSError
        As `fastrnn.serialization.save`, which stores any arrays.
    """
    words = describe(layer, prefix)
    tensors = {prefix + name: value for name, value in layer.params.items()}
    serialization.save(path, tensors, {**(metadata or {}), **words})


def load(
    path: str | os.PathLike[str], prefix: str = "", *, kind: str | None = None, dtype: Any = None, **options: Any
) -> Layer:
    """Read a layer from a file: one that `save` wrote, or a state dict of PyTorch's in .safetensors or .npz.

    Parameters
    ----------
    path : path-like
        Ends in .npz or .safetensors, which selects the format.
    prefix : str, default ""
        What the layer's names begin with, say "encoder.rnn."; other names in the file are left alone.
    kind, dtype, **options
        As for `from_torch`; they go before what `save` noted in the file. But parameters are taken as they are,
        whatever `update_gate` says.

    Returns
    -------
    RNN, LSTM or GRU

    Raises
    ------
    TypeError, ValueError, ImportError, OSError
        As `from_torch` and `fastrnn.serialization.load`. The message names the path.
    """
    tensors, words = serialization.load(path)
    try:
        return rebuild(tensors, words, prefix, kind, dtype, options)
    except (TypeError, ValueError) as error:
        kind_of_error = TypeError if isinstance(error, TypeError) else ValueError
        raise kind_of_error(f"{os.fspath(path)}: {error}") from error


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
    saved = json.loads(words.get(_word(prefix), "{}"))
    if not isinstance(saved, dict):
        raise ValueError(f"{_word(prefix)}: expected options in JSON, got {saved!r}")
    saved_kind = saved.pop("kind", None)
    return from_names(tensors, prefix, kind or saved_kind, dtype, saved | dict(options or {}), None)


def _word(prefix: str) -> str:
    """The key of a layer's options among a file's metadata."""
    return f"fastrnn.layer:{prefix}"
