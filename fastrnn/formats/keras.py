"""Recurrent layers, and whole models, in files of Keras: .keras and .weights.h5 of Keras 3, .h5 of Keras 2 and 3.

A .keras file is a zip archive of config.json and model.weights.h5. `hdf5.py` reads the arrays. Options that weights do
not show are in the model's configuration, which .weights.h5 files do not have.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from typing import Any

from numpy.typing import NDArray

from fastrnn.formats import npz
from fastrnn.formats.reading import Budget, check_entry, json_object, opened
from fastrnn.pages import page

__all__ = ["SUFFIXES", "layer", "model", "options"]

SUFFIXES = (".keras", ".h5")
WEIGHTS, CONFIG = "model.weights.h5", "config.json"  # in a .keras file
CLASSES = ("SimpleRNN", "LSTM", "GRU", "Bidirectional", "RNN")
PATIENCE, SPEED = 60, 10e6  # seconds that reading may take, and bytes that it reads in each more


def layer(path: str | os.PathLike[str], name: str, max_bytes: int | None) -> tuple[list[list[NDArray]], dict[str, Any]]:
    """Return a recurrent layer's arrays and options as `fastrnn.weights.from_keras` takes them.

    Parameters
    ----------
    path : path-like
        Ends in .keras or .h5.
    name : str
        The layer's; "" for the only recurrent layer of the file.
    max_bytes : int, optional
        As for `fastrnn.serialization.load`.

    Raises
    ------
    ValueError
        As `fastrnn.serialization.load`; also if there is no such layer, or it does what fastrnn does not have.
    ImportError
        If h5py is not installed.
    OSError
        If the file cannot be read.
    """
    _need_h5py(path)
    with opened(path, "a file of Keras with such a layer", max_bytes) as (file, budget):
        config, data = _contents(path, file, budget)
        lists, words = _read_hdf5(data, {"name": name, "whole": False}, budget.limit)
        found = {"bidirectional": "bidirectional" in words}
        config = words.get("config") if config is None else config
        if config is not None:
            found |= _options(words["name"], json_object(config, "configuration"))
        return lists, found


def model(
    path: str | os.PathLike[str], max_bytes: int | None
) -> tuple[dict[str, Any], dict[str, list[NDArray]]]:  # fmt: skip
    """Return a model's configuration, and the arrays of each layer that has some, in the order of `get_weights`.

    Parameters and errors are those of `layer`; a file of weights alone is a ValueError.
    """
    _need_h5py(path)
    with opened(path, "a file of Keras with a model", max_bytes) as (file, budget):
        config, data = _contents(path, file, budget)
        lists, words = _read_hdf5(data, {"name": "", "whole": True}, budget.limit)
        config = words.get("config") if config is None else config
        if config is None:
            raise ValueError("expected a model with its configuration, got weights alone")
        return json_object(config, "configuration"), {words[str(k)]: arrays for k, arrays in enumerate(lists)}


def _need_h5py(path: str | os.PathLike[str]) -> None:
    if importlib.util.find_spec("h5py") is None:
        raise ImportError(
            f"{os.fspath(path)}: needs h5py (pip install h5py); to convert it where Keras is installed: "
            "fastrnn.save('layer.npz', fastrnn.weights.from_keras(keras_layer.get_weights())), or "
            f"fastrnn.nn.from_keras(keras_model).save('model.npz'); {page('how-to/keras')}"
        )


def _contents(path: str | os.PathLike[str], file: Any, budget: Budget) -> tuple[str | None, bytes]:
    """The configuration, if it is apart from the weights, and the HDF5 file."""
    if os.fspath(path).lower().endswith(".keras"):
        with zipfile.ZipFile(file) as archive:
            return _entry(archive, CONFIG, budget).decode(), _entry(archive, WEIGHTS, budget)
    return None, file.read()


def _read_hdf5(
    data: bytes, request: dict[str, Any], max_bytes: int
) -> tuple[list[list[NDArray]], dict[str, str]]:  # fmt: skip
    """The arrays and words of a layer or a model, read in a process of its own; see `hdf5.py`."""
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fastrnn.formats.hdf5"],
            input=json.dumps(request | {"max_bytes": max_bytes}).encode() + b"\n" + data,
            env=os.environ | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
            capture_output=True, timeout=PATIENCE + len(data) / SPEED, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ValueError("expected an HDF5 file, got one that HDF5's library does not come to an end with") from None
    if done.returncode:
        raise ValueError(f"expected an HDF5 file, got one with which HDF5's library ends with {done.returncode}")
    found, words, *_ = npz.read(io.BytesIO(done.stdout), Budget(len(done.stdout), None))
    if "error" in words:
        raise ValueError(words["error"])
    lists: dict[str, list[NDArray]] = {}
    for key, array in found.items():
        lists.setdefault(key.partition(".")[0], []).append(array)
    return list(lists.values()), words


def _entry(archive: zipfile.ZipFile, name: str, budget: Budget) -> bytes:
    """A file in an archive, whose checksum is compared."""
    info = archive.getinfo(name)
    check_entry(info, budget)
    return archive.read(info)


# ---- Options ---------------------------------------------------------------------------------------------------------


def _options(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The options of the layer of this name in a model's configuration; none if it is not there."""
    pending: list[Any] = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            inner = value.get("config")
            if value.get("class_name") in CLASSES and isinstance(inner, dict) and inner.get("name") == name:
                return options(value)
        if isinstance(value, (dict, list)):
            pending += value.values() if isinstance(value, dict) else value
    return {}


def options(described: dict[str, Any], forwards: bool = True) -> dict[str, Any]:
    """The options of a layer, a cell, or what is around it, as `fastrnn.weights.from_keras` takes them.

    Raises
    ------
    ValueError
        If it does what fastrnn does not have; with `forwards` also if it runs from the end to the start.
    """
    kind, config = described["class_name"].removesuffix("Cell"), described["config"]
    if forwards and config.get("go_backwards"):
        raise ValueError("expected a layer that runs forwards, got go_backwards=True")
    if kind == "Bidirectional":
        if config.get("merge_mode", "concat") != "concat":
            raise ValueError(f"expected merge_mode='concat', got {config['merge_mode']!r}")
        return options(config["layer"])
    if kind == "RNN":
        return options(config["cell"])
    if kind == "StackedRNNCells":
        first, *others = [options(cell) for cell in config["cells"]]
        if any(other != first for other in others):
            raise ValueError("expected a stack of equal cells, got cells with other options")
        return first
    activation = config.get("activation", "tanh")
    if activation != "tanh" and not (kind == "SimpleRNN" and activation == "relu"):
        raise ValueError(f"expected activation='tanh', or 'relu' of a SimpleRNN, got {activation!r}")
    if config.get("recurrent_activation", "sigmoid") != "sigmoid":
        raise ValueError(f"expected recurrent_activation='sigmoid', got {config['recurrent_activation']!r}")
    if kind == "SimpleRNN":
        return {"nonlinearity": activation}
    return {"reset_after": config["reset_after"]} if kind == "GRU" and "reset_after" in config else {}
