"""Recurrent layers in files of Keras: .keras and .weights.h5 of Keras 3, .h5 of Keras 2 and 3.

A .keras file is a zip archive of config.json and model.weights.h5. In an HDF5 file of Keras 3, the arrays of a cell are
in its group "vars", under "0" and so on, and the layer's own name is an attribute of the layer's "vars". In one of
Keras 2, they are in a group of the cell under their own names, and groups above have the layer's name. Options that
weights do not show are in the model's configuration, which .weights.h5 files do not have.
"""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrnn.formats.reading import Budget, json_object, opened

__all__ = ["SUFFIXES", "layer"]

SUFFIXES = (".keras", ".h5")
WEIGHTS, CONFIG = "model.weights.h5", "config.json"  # in a .keras file
NUMBERED = ("0", "1", "2")
ARRAYS = (NUMBERED, ("kernel", "recurrent_kernel", "bias"), ("kernel:0", "recurrent_kernel:0", "bias:0"))
CELL = re.compile(r"(?:cell|(?:simple_rnn|lstm|gru)_cell)(?:_(\d{1,9}))?")
CLASSES = ("SimpleRNN", "LSTM", "GRU", "Bidirectional", "RNN")
DEEPEST = 32  # groups in groups


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
    try:
        import h5py
    except ImportError:
        raise ImportError(
            f"{os.fspath(path)}: needs h5py (pip install h5py); to convert it where Keras is installed: "
            "fastrnn.save('layer.npz', fastrnn.weights.from_keras(keras_layer.get_weights()))"
        ) from None
    with opened(path, "a file of Keras with such a layer", max_bytes) as (file, budget):
        config: Any = None
        if os.fspath(path).lower().endswith(".keras"):
            with zipfile.ZipFile(file) as archive:
                config = _entry(archive, CONFIG, budget)
                file = io.BytesIO(_entry(archive, WEIGHTS, budget))
        with h5py.File(file, "r") as root:
            if config is None:
                config = _text(root, "model_config")
            found: dict[str, list[_Cell]] = {}
            for cell in _cells(root):
                found.setdefault(cell.layer, []).append(cell)
            if not name and len(found) == 1:
                (name,) = found
            if name not in found:
                there = ", ".join(map(repr, found)) or "none"
                raise ValueError(f"prefix: expected the name of a recurrent layer, got {name!r}; there are: {there}")
            arrays, bidirectional = _joined(found[name], budget)
        options = {} if config is None else _options(name, json_object(config, "configuration"))
        return arrays, {"bidirectional": bidirectional, **options}


# ---- Arrays ----------------------------------------------------------------------------------------------------------


class _Cell(NamedTuple):
    """A cell in a file."""

    layer: str  # the name of the layer that it belongs to
    direction: int | None  # of a Bidirectional: 0 forwards, 1 backwards
    number: int  # its place in a stack of cells
    datasets: list[Any]


def _cells(root: Any) -> Iterator[_Cell]:
    """All cells in a file."""
    import h5py

    pending: list[tuple[Any, list[str]]] = [(root, [])]
    seen = set()
    while pending:
        group, path = pending.pop()
        if group.id in seen or len(path) > DEEPEST:  # hard links may form circles
            continue
        seen.add(group.id)
        members = {name: _member(group, name) for name in group}
        for names in ARRAYS:
            datasets = [members[name] for name in names if isinstance(members.get(name), h5py.Dataset)]
            place = path[:-1] if names == NUMBERED else path
            if len(datasets) >= 2 and (names != NUMBERED or (path[-1:] == ["vars"] and _is_cell(place))):
                yield _cell(root, place, datasets)
        pending += [(m, [*path, name]) for name, m in members.items() if isinstance(m, h5py.Group)]


def _cell(root: Any, path: list[str], datasets: list[Any]) -> _Cell:
    """The cell at a path, such as enc/lstm_cell, layers/lstm/cell or layers/bidirectional/forward_layer/cell."""
    number, direction = 0, None
    if match := CELL.fullmatch(path[-1]):
        number = int(match[1] or 0)
        path = path[:-1]
    if path[-2:] == ["cell", "cells"]:
        path = path[:-2]
    elif path and path[-1].startswith("stacked_rnn_cells"):
        path = path[:-1]
    if path and path[-1].startswith(("forward_", "backward_")):
        direction = int(path[-1].startswith("backward_"))
        path = path[:-1]
    own = root
    for name in (*path, "vars"):
        own = None if own is None else _member(own, name)
    given = None if own is None else _text(own, "name")
    return _Cell(given or "".join(path[-1:]), direction, number, datasets)


def _is_cell(path: list[str]) -> bool:
    return bool(path and CELL.fullmatch(path[-1]))


def _member(group: Any, name: str) -> Any:
    """A group's member, or None. Only hard links are followed: others may lead to another file."""
    import h5py

    is_there = isinstance(group, h5py.Group) and isinstance(group.get(name, getlink=True), h5py.HardLink)
    return group[name] if is_there else None


def _text(group: Any, key: str) -> str | None:
    """An attribute that is one text."""
    if key not in group.attrs or group.attrs.get_id(key).shape != ():
        return None
    value = group.attrs[key]
    return value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else None


def _joined(cells: list[_Cell], budget: Budget) -> tuple[list[list[NDArray]], bool]:
    """The arrays of a layer's cells, a list for each cell of a stack, and whether the layer is bidirectional."""
    cells = sorted(cells, key=lambda cell: (cell.direction or 0, cell.number))
    directions = [cell.direction for cell in cells]
    arrays = [[_array(dataset, budget) for dataset in cell.datasets] for cell in cells]
    if directions == [0, 1]:
        return [arrays[0] + arrays[1]], True
    if any(direction is not None for direction in directions):
        raise ValueError(f"expected a Bidirectional of one layer forwards and one backwards, got {len(cells)} cells")
    return arrays, False


def _array(dataset: Any, budget: Budget) -> NDArray:
    """A dataset whose numbers are in the file itself."""
    if dataset.is_virtual or dataset.external or dataset.dtype.kind != "f" or dataset.shape is None:
        raise ValueError(f"{dataset.name!r}: expected an array of floats in this file, got another dataset")
    budget.take(math.prod(dataset.shape) * dataset.dtype.itemsize)
    return np.asarray(dataset[()])


def _entry(archive: zipfile.ZipFile, name: str, budget: Budget) -> bytes:
    """A file in an archive, whose checksum is compared."""
    info = archive.getinfo(name)
    budget.take(info.file_size)
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
