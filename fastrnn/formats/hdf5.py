"""``python -m fastrnn.formats.hdf5``: a program that reads layers of Keras's from an HDF5 file.

It is a program of its own, because HDF5's library may crash, hang or take any memory where a file is damaged. It gets a
line of JSON and then the file on stdin, and writes an .npz to stdout: the arrays and, as words, the rest or an error.

In a file of Keras 3, the arrays of a cell are in its group "vars", under "0" and so on, and the layer's own name is an
attribute of the layer's "vars". In one of Keras 2, they are in a group of the cell under their own names, and groups
above have the layer's name. The model's configuration is an attribute of the file.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from fastrnn.formats import npz
from fastrnn.formats.reading import Budget

NUMBERED = ("0", "1", "2")
ARRAYS = (NUMBERED, ("kernel", "recurrent_kernel", "bias"), ("kernel:0", "recurrent_kernel:0", "bias:0"))
CELL = re.compile(r"(?:cell|(?:simple_rnn|lstm|gru)_cell)(?:_(\d{1,9}))?")
DEEPEST = 32  # groups in groups
MARGIN = 256 << 20  # bytes that HDF5 itself may take beside the file and the arrays


def main() -> None:
    """Read a request, and answer it."""
    request = json.loads(sys.stdin.buffer.readline())
    file = io.BytesIO(sys.stdin.buffer.read())
    budget = Budget(file.getbuffer().nbytes, request["max_bytes"])
    _limit_memory(MARGIN + 4 * budget.limit)
    arrays: dict[str, NDArray] = {}
    try:
        with h5py.File(file, "r") as root:
            lists, words = model(root, budget) if request["whole"] else layer(root, request["name"], budget)
            arrays = {f"{k}.{n}": a for k, part in enumerate(lists) for n, a in enumerate(part)}
    except Exception as error:  # h5py raises all kinds of errors for damage
        arrays, words = {}, {"error": str(error) or type(error).__name__}
    answer = io.BytesIO()
    npz.write(answer, arrays, words, "")
    sys.stdout.buffer.write(answer.getbuffer())


def layer(root: Any, name: str, budget: Budget) -> tuple[list[list[NDArray]], dict[str, str]]:
    """The arrays of the layer of this name, a list for each cell of a stack, and words: name, bidirectional, config."""
    found: dict[str, list[_Cell]] = {}
    for cell in _cells(root):
        found.setdefault(cell.layer, []).append(cell)
    if not name and len(found) == 1:
        (name,) = found
    if name not in found:
        there = ", ".join(map(repr, sorted(found))) or "none"
        raise ValueError(f"prefix: expected the name of a recurrent layer, got {name!r}; there are: {there}")
    arrays, bidirectional = _joined(found[name], budget)
    config = _text(root, "model_config")
    words = {"name": name} | ({"bidirectional": "yes"} if bidirectional else {})
    return arrays, words | ({} if config is None else {"config": config})


def model(root: Any, budget: Budget) -> tuple[list[list[NDArray]], dict[str, str]]:
    """The arrays of all layers that have some, in the order of `get_weights`, and words: config, and "0" and so on for
    their names.
    """
    layers = _member(root, "layers") or _member(root, "model_weights")
    if not isinstance(layers, h5py.Group):
        raise ValueError("expected a model, got a file without its layers")
    lists: list[list[NDArray]] = []
    words: dict[str, str] = {}
    for key in layers:
        group = _member(layers, key)
        datasets = _datasets(group) if isinstance(group, h5py.Group) else []
        if datasets:
            own = _member(group, "vars")
            words[str(len(lists))] = (None if own is None else _text(own, "name")) or key
            lists.append([_array(dataset, budget) for dataset in datasets])
    config = _text(root, "model_config")
    return lists, words | ({} if config is None else {"config": config})


ORDER = {name: k for k, name in enumerate(("kernel", "embeddings", "recurrent_kernel", "bias"))}


def _datasets(layer: Any) -> list[Any]:
    """The datasets of floats in a layer's group, in the order of its `get_weights`."""
    found: list[tuple[Any, Any]] = []
    pending: list[tuple[Any, tuple[str, ...]]] = [(layer, ())]
    seen = set()
    while pending:
        group, path = pending.pop()
        if group.id in seen or len(path) > DEEPEST:
            continue
        seen.add(group.id)
        for name in group:
            member = _member(group, name)
            if isinstance(member, h5py.Group):
                pending.append((member, (*path, name)))
            elif isinstance(member, h5py.Dataset) and member.dtype.kind == "f":
                backward = any(part.startswith("backward_") for part in path)
                found.append(((backward, ORDER.get(name.partition(":")[0], len(ORDER)), name), member))
    return [dataset for _, dataset in sorted(found, key=lambda item: item[0])]


def _limit_memory(more: int) -> None:
    """Let this process take so many bytes more than it has, where the system can say so."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or now + more < most:
        resource.setrlimit(resource.RLIMIT_AS, (now + more, most))


class _Cell(NamedTuple):
    """A cell in a file."""

    layer: str  # the name of the layer that it belongs to
    direction: int | None  # of a Bidirectional: 0 forwards, 1 backwards
    number: int  # its place in a stack of cells
    datasets: list[Any]


def _cells(root: Any) -> Iterator[_Cell]:
    """All cells in a file."""
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


if __name__ == "__main__":
    main()
