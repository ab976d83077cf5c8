"""Recurrent layers in files of Keras: .keras and .weights.h5 of Keras 3, .h5 of Keras 2 and 3.

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

__all__ = ["SUFFIXES", "layer"]

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
    if importlib.util.find_spec("h5py") is None:
        raise ImportError(
            f"{os.fspath(path)}: needs h5py (pip install h5py); to convert it where Keras is installed: "
            "fastrnn.save('layer.npz', fastrnn.weights.from_keras(keras_layer.get_weights()))"
        )
    with opened(path, "a file of Keras with such a layer", max_bytes) as (file, budget):
        if os.fspath(path).lower().endswith(".keras"):
            with zipfile.ZipFile(file) as archive:
                config, data = _entry(archive, CONFIG, budget).decode(), _entry(archive, WEIGHTS, budget)
        else:
            config, data = None, file.read()
        arrays, words = _read_hdf5(data, name, budget.limit)
        options = {"bidirectional": "bidirectional" in words}
        config = words.get("config") if config is None else config
        if config is not None:
            options |= _options(words["name"], json_object(config, "configuration"))
        return arrays, options


def _read_hdf5(data: bytes, name: str, max_bytes: int) -> tuple[list[list[NDArray]], dict[str, str]]:
    """The arrays and words of a layer, read in a process of its own; see `hdf5.py`."""
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fastrnn.formats.hdf5"],
            input=json.dumps({"name": name, "max_bytes": max_bytes}).encode() + b"\n" + data,
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
                return _options_of(value)
        if isinstance(value, (dict, list)):
            pending += value.values() if isinstance(value, dict) else value
    return {}


def _options_of(described: dict[str, Any]) -> dict[str, Any]:
    """The options of a layer, a cell, or what is around it."""
    kind, config = described["class_name"].removesuffix("Cell"), described["config"]
    if config.get("go_backwards"):
        raise ValueError("expected a layer that runs forwards, got go_backwards=True")
    if kind == "Bidirectional":
        if config.get("merge_mode", "concat") != "concat":
            raise ValueError(f"expected merge_mode='concat', got {config['merge_mode']!r}")
        return _options_of(config["layer"])
    if kind == "RNN":
        return _options_of(config["cell"])
    if kind == "StackedRNNCells":
        first, *others = [_options_of(cell) for cell in config["cells"]]
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
