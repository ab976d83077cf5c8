"""Weights of other frameworks: PyTorch's, Keras 3's and ONNX's, to and from layers, without the loss of a bit.

`CONVENTIONS` says how each framework keeps them. All functions copy: a layer shares no memory with what it came from.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastrnn import serialization, validate
from fastrnn.layers import GRU, LSTM, RNN
from fastrnn.stack import Stack

__all__ = [
    "CONVENTIONS",
    "convention_table",
    "from_keras",
    "from_onnx",
    "from_torch",
    "load",
    "save",
    "to_keras",
    "to_onnx",
    "to_torch",
]

Layer: TypeAlias = "RNN | LSTM | GRU"
Fields: TypeAlias = "dict[str, NDArray]"  # of one direction of one layer, by the names of `fastrnn.cell.Weights`

KINDS: dict[str, type[RNN] | type[LSTM] | type[GRU]] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
BLOCKS = {1: "rnn", 3: "gru", 4: "lstm"}  # G -> kind


@dataclass(frozen=True, slots=True)
class Convention:
    """How a framework keeps the weights of one layer.

    Gates are named as in docs/math.md: what Keras and ONNX call c (LSTM) and h (GRU) is g and n. Shapes are in T, B, I,
    H, D and G, the number of gates' blocks: RNN 1, GRU 3, LSTM 4. An array's name is the framework's own.
    """

    framework: str
    gates: dict[str, str]  # kind -> order of the gates' blocks
    peephole: str  # order of peepholes; empty where there are none
    transposed: bool  # weights act from the right: x W
    input: tuple[str, tuple[str, ...]]  # weights that act on x_t: name and shape
    recurrent: tuple[str, tuple[str, ...]]  # weights that act on h_{t-1}
    biases: str
    peepholes: str
    resets: str  # of a GRU
    directions: str


CONVENTIONS = {
    convention.framework: convention
    for convention in (
        Convention(
            "PyTorch", {"rnn": "h", "gru": "rzn", "lstm": "ifgo"}, "", False,
            ("weight_ih", ("G*H", "I")), ("weight_hh", ("G*H", "H")),
            "bias_ih (G*H,), bias_hh (G*H,)", "-", "after", "names that end in _reverse",
        ),
        Convention(
            "fastrnn", {"rnn": "h", "gru": "rzn", "lstm": "ifgo"}, "ifo", False,
            ("weight_ih", ("G*H", "I")), ("weight_hh", ("G*H", "H")),
            "bias_ih (G*H,), bias_hh (G*H,)", "peephole (3, H)", "reset_after=True or False",
            "names that end in _reverse",
        ),
        Convention(
            "Keras", {"rnn": "h", "gru": "zrn", "lstm": "ifgo"}, "", True,
            ("kernel", ("I", "G*H")), ("recurrent_kernel", ("H", "G*H")),
            "bias (G*H,); GRU that resets after: bias (2, G*H), input's and state's", "-",
            "reset_after=True or False", "the arrays of the forward layer, then those of the backward layer",
        ),
        Convention(
            "ONNX", {"rnn": "h", "gru": "zrn", "lstm": "iofg"}, "iof", False,
            ("W", ("D", "G*H", "I")), ("R", ("D", "G*H", "H")),
            "B (D, 2*G*H), W's and R's", "P (D, 3*H)", "linear_before_reset=1 or 0", "first axis",
        ),
    )
}  # fmt: skip
OURS, TORCH, KERAS, ONNX = (CONVENTIONS[name] for name in ("fastrnn", "PyTorch", "Keras", "ONNX"))


def convention_table() -> str:
    """Return `CONVENTIONS` as a table in Markdown."""

    def order(letters: str) -> str:
        return ", ".join(letters) or "-"

    def array(named: tuple[str, tuple[str, ...]]) -> str:
        return f"{named[0]} ({', '.join(named[1])})"

    rows = {
        "LSTM gates": lambda c: order(c.gates["lstm"]),
        "GRU gates": lambda c: order(c.gates["gru"]),
        "input weights": lambda c: array(c.input),
        "recurrent weights": lambda c: array(c.recurrent),
        "they act as": lambda c: "x W" if c.transposed else "W x",
        "biases": lambda c: c.biases,
        "peepholes": lambda c: f"{c.peepholes}: {order(c.peephole)}" if c.peephole else "-",
        "GRU resets": lambda c: c.resets,
        "backward direction": lambda c: c.directions,
    }
    lines = ["| | " + " | ".join(CONVENTIONS) + " |", "|---" * (len(CONVENTIONS) + 1) + "|"]
    lines += [f"| {head} | {' | '.join(map(cell, CONVENTIONS.values()))} |" for head, cell in rows.items()]
    return "\n".join(lines) + "\n"


def regate(rows: NDArray, source: str, target: str) -> NDArray:
    """Reorder the gates' blocks along the first axis; `rows` itself where the orders are the same."""
    if source == target:
        return rows
    blocks = rows.reshape(len(source), -1, *rows.shape[1:])
    return blocks[[source.index(gate) for gate in target]].reshape(rows.shape)


# ---- PyTorch ------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr|peephole)(?:_l(\d+)(_reverse)?)?")


def from_torch(
    state_dict: Mapping[str, Any], prefix: str = "", *, kind: str | None = None, dtype: Any = None, **options: Any
) -> Layer:
    """Build a layer from the state dict of a torch.nn.RNN, LSTM or GRU, of their cells, or of a fastrnn layer.

    Sizes, layers, directions, biases and projection are read off names and shapes.

    Parameters
    ----------
    state_dict : mapping of str to array_like
        Arrays under names such as weight_ih_l0; a cell's weight_ih is that of layer 0.
    prefix : str, default ""
        What the layer's names begin with, say "encoder.rnn."; other names are left alone.
    kind : {"rnn", "gru", "lstm"}, optional
        What it must be. Default: what it is, by the rows of weight_hh for each hidden unit.
    dtype : float32 or float64, optional
        What to convert to. Default: the arrays' own.
    **options
        What weights do not show: `nonlinearity`, `reset_after`, `update_gate`, `batch_first`, `dropout`, `rng`, with
        the constructors' defaults. With update_gate="replace" the rows of gate z are negated, for PyTorch keeps.

    Returns
    -------
    RNN, LSTM or GRU

    Raises
    ------
    TypeError, ValueError
        If names or shapes are not those of a layer, or dtypes differ or are others. The message says what the
        shapes look like where they are another framework's.
    """
    return _from_names(state_dict, prefix, kind, dtype, options)


def to_torch(layer: Layer, prefix: str = "") -> dict[str, NDArray]:
    """Return a layer's parameters as a state dict for torch.nn.RNN, LSTM or GRU: the inverse of `from_torch`.

    Raises
    ------
    ValueError
        If PyTorch has no such layer: peepholes, a GRU with reset_after=False. A GRU with update_gate="replace" has the
        rows of gate z negated, which is the same function.
    """
    cell = _stack(layer).cells[0]
    if cell.peephole:
        raise ValueError("layer: expected one that PyTorch has, got peepholes")
    if not cell.reset_after:
        raise ValueError("layer: expected one that PyTorch has, got a GRU with reset_after=False")
    return {
        prefix + name: array
        for k, fields in enumerate(_exported(layer))
        for (name, _), array in zip(_names(layer, k), fields.values(), strict=True)
    }


def _from_names(
    tensors: Mapping[str, Any], prefix: str, kind: str | None, dtype: Any, options: dict[str, Any], keeps: bool = True
) -> Layer:
    if not isinstance(tensors, Mapping):
        raise TypeError(f"state_dict: expected names and arrays, got {type(tensors).__name__}")
    found: dict[tuple[int, int], Fields] = {}
    for name, value in tensors.items():
        match = _NAME.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match:
            field, layer, reverse = match.groups()
            place = found.setdefault((int(layer or 0), int(bool(reverse))), {})
            if field in place:
                raise ValueError(f"{name}: expected a layer or a cell, got the names of both")
            place[field] = validate.as_ndarray(name, value)
    if not found:
        raise ValueError(_nothing_found(tensors, prefix))
    directions = 1 + max(d for _, d in found)
    grid = [(k, d) for k in range(1 + max(k for k, _ in found)) for d in range(directions)]
    fields = sorted({field for part in found.values() for field in part} | {"weight_ih", "weight_hh"})
    for k, d in grid:
        missing = [prefix + _full_name(field, k, d) for field in fields if field not in found.get((k, d), {})]
        if missing:
            raise ValueError(f"state_dict: expected every layer and direction to have {fields}, missing {missing}")
    return _build([found[place] for place in grid], directions, kind, dtype, options, keeps)


def _full_name(field: str, layer: int, direction: int) -> str:
    return f"{field}_l{layer}" + ("_reverse" if direction else "")


def _nothing_found(tensors: Mapping[str, Any], prefix: str) -> str:
    matches = [(name, re.search(r"(?:^|\.)(weight_hh)(?:_l0)?$", name)) for name in tensors]
    prefixes = [repr(name[: match.start(1)]) for name, match in matches if match]
    there = f"prefixes of recurrent layers there: {', '.join(prefixes)}" if prefixes else "no recurrent layer there"
    return f"prefix: expected names such as {prefix}weight_ih_l0, got none; {there}"


# ---- Keras --------------------------------------------------------------------------------------------------------


def from_keras(
    weights: Sequence[Any], *, bidirectional: bool | None = None, reset_after: bool | None = None,
    batch_first: bool = True, dtype: Any = None, **options: Any,
) -> Layer:  # fmt: skip
    """Build a layer from the weights of Keras 3 layers: SimpleRNN, LSTM, GRU, alone, in Bidirectional, or stacked.

    Parameters
    ----------
    weights : sequence of array_like, or sequence of such sequences
        ``layer.get_weights()``, or a list of these from the lowest layer to the highest. Of a flat list, as from
        a model of recurrent layers or from StackedRNNCells, layers and directions are read off the shapes.
    bidirectional : bool, optional
        Default: whether the arrays of a layer are a forward and a backward one's. Must be given where the shapes allow
        both, two layers or two directions: in a flat list with I = H.
    reset_after : bool, optional
        Of a GRU. Default: as the shape of its bias says; without biases True, as in Keras.
    batch_first : bool, default True
        Keras's arrays are (B, T, .).
    dtype : float32 or float64, optional
        What to convert to. Default: the arrays' own.
    **options
        What weights do not show: `nonlinearity`, `update_gate`, `dropout`, `rng`.

    Returns
    -------
    RNN, LSTM or GRU
        Keras's one bias is bias_ih, and bias_hh is zero; a GRU's two are the two.

    Raises
    ------
    TypeError, ValueError
        If there are no such arrays, shapes do not fit together, dtypes differ or are others. The message says what the
        shapes look like where they are another framework's.
    """
    groups, directions = _keras_groups(weights, bidirectional)
    parts = []
    for k, group in enumerate(groups):
        ih, hh = group[0].T, group[1].T
        kind = _kind(KERAS, f"weights of group {k}", group[0].shape, group[1].shape)
        bias = group[2] if len(group) == 3 else None
        if kind == "gru":
            after = bias.ndim == 2 if bias is not None else reset_after is not False
            if reset_after is not None and reset_after != after:
                shape = "(2, 3*H)" if reset_after else "(3*H,)"
                raise ValueError(f"reset_after={reset_after}: expected biases of shape {shape}, got {group[2].shape}")
            options["reset_after"] = after
        elif reset_after is not None:
            raise TypeError(f"reset_after: expected only for a GRU, got it for Keras's {kind.upper()}")
        fields = {"weight_ih": ih, "weight_hh": hh}
        if bias is not None:
            two = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
            fields |= dict(zip(("bias_ih", "bias_hh"), two, strict=True))
        parts.append({name: regate(a, KERAS.gates[kind], OURS.gates[kind]) for name, a in fields.items()})
    return _build(parts, directions, None, dtype, options | {"batch_first": batch_first})


def to_keras(layer: Layer, *, sum_biases: bool = False) -> list[list[NDArray]]:
    """Return a layer's parameters for Keras's ``layer.set_weights``, a list for each layer: inverse of `from_keras`.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        With two directions, a list is that of a Bidirectional.
    sum_biases : bool, default False
        Where Keras has one bias (all but a GRU that resets after): whether bias_hh may be other than zero. It is added
        to bias_ih then, which is the same function but for rounding, and cannot be undone.

    Raises
    ------
    ValueError
        If Keras has no such layer (peepholes, projection), or bias_hh would be lost.
    """
    stack = _stack(layer)
    cell = stack.cells[0]
    for option, there in (("peepholes", cell.peephole), ("a projection", cell.proj_size)):
        if there:
            raise ValueError(f"layer: expected one that Keras has, got {option}")
    two = cell.kind == "gru" and cell.reset_after
    lists: list[list[NDArray]] = [[] for _ in stack.cells]
    for k, ours in enumerate(_exported(layer)):
        fields = {name: regate(a, OURS.gates[cell.kind], KERAS.gates[cell.kind]) for name, a in ours.items()}
        arrays = [np.ascontiguousarray(fields["weight_ih"].T), np.ascontiguousarray(fields["weight_hh"].T)]
        if two and cell.bias:
            arrays.append(np.stack([fields["bias_ih"], fields["bias_hh"]]))
        elif cell.bias:
            if fields["bias_hh"].any():
                if not sum_biases:
                    name = _full_name("bias_hh", *divmod(k, stack.directions))
                    raise ValueError(
                        f"{name}: expected zeros, for Keras has one bias here; sum_biases=True adds it to bias_ih"
                    )
                fields["bias_ih"] = fields["bias_ih"] + fields["bias_hh"]
            arrays.append(fields["bias_ih"])
        lists[k // stack.directions] += arrays
    return lists


def _keras_groups(weights: Sequence[Any], bidirectional: bool | None) -> tuple[list[list[NDArray]], int]:
    """Arrays by layer and direction, [kernel, recurrent_kernel] or [kernel, recurrent_kernel, bias]; directions."""
    if not isinstance(weights, (list, tuple)) or not weights:
        raise TypeError(f"weights: expected a list from layer.get_weights(), got {_what(weights)}")
    nested = isinstance(weights[0], (list, tuple))
    groups: list[list[NDArray]] = []
    counts, limit = set(), 2 if nested else None
    for k, part in enumerate(weights if nested else [weights]):
        where = f"weights[{k}]" if nested else "weights"
        if not isinstance(part, (list, tuple)):
            raise TypeError(f"{where}: expected a list from layer.get_weights(), got {_what(part)}")
        found = _keras_split(where, [validate.as_ndarray(f"{where}[{n}]", a) for n, a in enumerate(part)], limit)
        counts.add(len(found))
        groups += found
    if len({len(group) for group in groups}) > 1:
        raise ValueError("weights: expected biases in all layers and directions or in none, got them in some")
    if nested:
        if len(counts) > 1:
            raise ValueError("weights: expected 1 direction in each layer or 2 in each, got 1 in some and 2 in others")
        directions = max(counts)
        if bidirectional is not None and directions != 1 + bidirectional:
            raise ValueError(f"bidirectional={bidirectional}: got {directions} sets of arrays in a layer")
        return groups, directions
    sizes, hidden = [group[0].shape[0] for group in groups], groups[0][1].shape[0]
    as_stack = all(size == hidden for size in sizes[1:])
    upper = [size == 2 * hidden for size in sizes[2:]]
    as_pairs = len(groups) % 2 == 0 and sizes[0] == sizes[1] and all(upper)
    if bidirectional is None:
        if as_stack and as_pairs:
            raise ValueError("bidirectional: expected True or False, for these shapes may be 2 layers or 2 directions")
        bidirectional = as_pairs
    if not (as_pairs if bidirectional else as_stack):
        raise ValueError(
            f"weights: expected layers that read each other (H = {hidden}), got kernels for input sizes {sizes}"
        )
    return groups, 1 + bidirectional


def _keras_split(where: str, arrays: list[NDArray], limit: int | None) -> list[list[NDArray]]:
    """A flat list by layer and direction, at most `limit` of them: threes with a bias, or twos."""
    shapes = [a.shape for a in arrays]
    if len(shapes) < 2:
        raise ValueError(f"{where}: expected kernel and recurrent_kernel, and maybe bias, got shapes {shapes}")
    _kind(KERAS, where, *shapes[:2])
    fitting = [
        size for size in (3, 2) if _keras_groups_of(size, shapes) and len(shapes) <= size * (limit or len(shapes))
    ]
    if len(fitting) != 1:
        got = "either" if fitting else f"shapes {shapes}"
        hint = "; a list for each layer tells" if fitting else ""
        raise ValueError(f"{where}: expected kernel, recurrent_kernel and bias of each, or no bias, got {got}{hint}")
    return [arrays[k : k + fitting[0]] for k in range(0, len(arrays), fitting[0])]


def _keras_groups_of(size: int, shapes: list[tuple[int, ...]]) -> bool:
    """Whether these are the arrays of layers that have `size` each."""
    groups = [shapes[k : k + size] for k in range(0, len(shapes), size)]
    for group in groups:
        kind = _fits(KERAS, *group[:2]) if len(group) == size else None
        if kind is None or (size == 3 and group[2] not in _keras_bias_shapes(kind, group[1][1])):
            return False
    return True


def _keras_bias_shapes(kind: str, rows: int) -> tuple[tuple[int, ...], ...]:
    return ((rows,), (2, rows)) if kind == "gru" else ((rows,),)


# ---- ONNX ---------------------------------------------------------------------------------------------------------


def from_onnx(
    tensors: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, reset_after: bool | None = None, dtype: Any = None,
    **options: Any,
) -> Layer:  # fmt: skip
    """Build a layer from the tensors of ONNX RNN, GRU or LSTM nodes.

    Parameters
    ----------
    tensors : mapping of str to array_like, or sequence of mappings
        W (D, G*H, I), R (D, G*H, H) and, optionally, B (D, 2*G*H) and P (D, 3*H); of several nodes, the lowest first.
        Other names are errors. With D = 1 the layer runs forwards; `fastrnn.onnx.load` has nodes that run in reverse.
    reset_after : bool, optional
        Of a GRU: whether linear_before_reset is set. Default: False, as in ONNX.
    dtype : float32 or float64, optional
        What to convert to. Default: the arrays' own.
    **options
        What weights do not show: `nonlinearity`, `update_gate`, `batch_first`, `dropout`, `rng`.

    Returns
    -------
    RNN, LSTM or GRU

    Raises
    ------
    TypeError, ValueError
        As `from_torch`.
    """
    nodes = [tensors] if isinstance(tensors, Mapping) else list(tensors)
    parts: list[Fields] = []
    counts = set()
    for k, node in enumerate(nodes):
        where = f"tensors[{k}]" if not isinstance(tensors, Mapping) else "tensors"
        if not isinstance(node, Mapping):
            raise TypeError(f"{where}: expected names and arrays, got {type(node).__name__}")
        arrays = {name: validate.as_ndarray(name, value) for name, value in node.items() if value is not None}
        unknown = sorted(arrays.keys() - {"W", "R", "B", "P"})
        if unknown or not {"W", "R"} <= arrays.keys():
            raise ValueError(f"{where}: expected W, R and maybe B and P, got {sorted(arrays)}")
        kind = _kind(ONNX, where, arrays["W"].shape, arrays["R"].shape)
        D, H = len(arrays["W"]), arrays["R"].shape[2]
        for name, rows in (("B", 2 * len(ONNX.gates[kind]) * H), ("P", 3 * H)):
            if name in arrays and arrays[name].shape != (D, rows):
                raise ValueError(f"{name}: expected {(D, rows)}, got {arrays[name].shape}")
        counts.add(D)
        parts += [split_onnx(kind, {name: a[d] for name, a in arrays.items()}) for d in range(D)]
    if len(counts) != 1 or not counts <= {1, 2}:
        raise ValueError(f"tensors: expected nodes of 1 or of 2 directions, got {sorted(counts)}")
    if len({tuple(part) for part in parts}) > 1:
        raise ValueError("tensors: expected the same of W, R, B, P in all nodes")
    if kind == "gru":
        options["reset_after"] = bool(reset_after)
    elif reset_after is not None:
        raise TypeError(f"reset_after: expected only for a GRU, got it for an {kind.upper()}")
    return _build(parts, max(counts), None, dtype, options)


def to_onnx(layer: Layer) -> list[dict[str, NDArray]]:
    """Return a layer's parameters as W, R and, where it has them, B and P: a dict for each layer, the lowest first.

    The inverse of `from_onnx`. A GRU with reset_after=True is a node with linear_before_reset=1.

    Raises
    ------
    ValueError
        If the layer has a projection, which ONNX does not.
    """
    stack = _stack(layer)
    if stack.cells[0].proj_size:
        raise ValueError("layer: expected one that ONNX has, got a projection")
    parts = [join_onnx(stack.cells[0].kind, fields) for fields in _exported(layer)]
    D = stack.directions
    return [
        {name: np.stack([part[name] for part in parts[k * D : (k + 1) * D]]) for name in parts[0]}
        for k in range(len(stack.cells))
    ]


def split_onnx(kind: str, arrays: Mapping[str, NDArray]) -> Fields:
    """One direction's W, R, B and P as `fastrnn.cell.Weights` has them, in our order of gates."""
    fields = {"weight_ih": arrays["W"], "weight_hh": arrays["R"]}
    if "B" in arrays:
        rows = len(arrays["W"])
        fields |= {"bias_ih": arrays["B"][:rows], "bias_hh": arrays["B"][rows:]}
    fields = {name: regate(a, ONNX.gates[kind], OURS.gates[kind]) for name, a in fields.items()}
    if "P" in arrays:
        fields["peephole"] = regate(arrays["P"], ONNX.peephole, OURS.peephole).reshape(3, -1)
    return fields


def join_onnx(kind: str, fields: Mapping[str, NDArray | None]) -> Fields:
    """The inverse of `split_onnx`; fields may be None."""
    there = {
        name: regate(a, OURS.gates[kind], ONNX.gates[kind])
        for name, a in fields.items()
        if a is not None and name != "peephole"
    }
    arrays = {"W": there["weight_ih"], "R": there["weight_hh"]}
    if "bias_ih" in there:
        arrays["B"] = np.concatenate([there["bias_ih"], there["bias_hh"]])
    peephole = fields.get("peephole")
    if peephole is not None:
        arrays["P"] = regate(peephole.reshape(-1), OURS.peephole, ONNX.peephole)
    return arrays


# ---- Files --------------------------------------------------------------------------------------------------------


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
    stack = _stack(layer)
    cell = stack.cells[0]
    options: dict[str, Any] = {"kind": cell.kind, "batch_first": stack.batch_first, "dropout": layer.dropout}
    if cell.kind == "rnn":
        options["nonlinearity"] = cell.nonlinearity
    if cell.kind == "gru":
        options |= {"reset_after": cell.reset_after, "update_gate": cell.update_gate}
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
    return _from_names(tensors, prefix, kind or saved_kind, dtype, saved | dict(options or {}), keeps=False)


def _word(prefix: str) -> str:
    """The key of a layer's options among a file's metadata."""
    return f"fastrnn.layer:{prefix}"


# ---- What all share -----------------------------------------------------------------------------------------------


def _stack(layer: Layer) -> Stack:
    if not isinstance(layer, (RNN, LSTM, GRU)):
        raise TypeError(f"layer: expected an RNN, LSTM or GRU, got {_what(layer)}")
    return layer._stack


def _names(layer: Layer, k: int) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the k-th direction's parameters, counted over layers."""
    stack = _stack(layer)
    return stack.names(*divmod(k, stack.directions)).values()


def _exported(layer: Layer) -> list[Fields]:
    """Copies of the parameters by layer and direction, with an update gate that keeps."""
    stack = _stack(layer)
    checked = validate.weights(stack, layer.params)
    parts = [{name: a.copy() for name, a in w._asdict().items() if a is not None} for w in checked]
    if stack.cells[0].update_gate == "replace":
        for part in parts:
            _negate_update_gate(part, stack.cells[0].hidden_size)
    return parts


def _negate_update_gate(fields: Fields, hidden_size: int) -> None:
    """Turn an update gate that replaces into one that keeps, or back: 1 - sigmoid(a) is sigmoid(-a)."""
    rows = slice(hidden_size, 2 * hidden_size)
    for value in fields.values():
        if value.any():  # a bias that is not there stays 0.0, not -0.0
            np.negative(value[rows], out=value[rows])


def _build(
    parts: list[Fields], directions: int, kind: str | None, dtype: Any, options: dict[str, Any], keeps: bool = True
) -> Layer:
    """A layer of these parts, by layer and direction, in our shapes and order of gates.

    `keeps`: the update gate of these weights keeps, whatever the layer's is to do.
    """
    found, first = _kind_of(parts[0]), parts[0]
    if kind is not None and validate.choice("kind", kind, tuple(KINDS)) != found:
        raise ValueError(f"kind: expected weights of {kind!r}, got those of {found!r}")
    dtypes = sorted({a.dtype.name for part in parts for a in part.values()})
    if dtype is None:
        if len(dtypes) > 1 or dtypes[0] not in ("float32", "float64"):
            raise TypeError(f"weights: expected all float32 or all float64, got {', '.join(dtypes)}; give dtype=...")
        dtype = dtypes[0]
    projection, hidden = first.get("weight_hr"), first["weight_hh"].shape[1]
    shown: dict[str, Any] = {"num_layers": len(parts) // directions, "bidirectional": directions == 2}
    shown["bias"] = "bias_ih" in first or "bias_hh" in first
    if found == "lstm":
        shown |= {"proj_size": 0 if projection is None else hidden, "peephole": "peephole" in first}
        hidden = hidden if projection is None else projection.shape[1]
    for option in options:
        if option in shown:
            raise TypeError(f"{option}: expected only options that weights do not show, which are read off them")
    layer = KINDS[found](first["weight_ih"].shape[1], hidden, **shown, **options, dtype=dtype)
    mapping: dict[str, NDArray] = {}
    for k, part in enumerate(parts):
        part = {name: a.astype(layer.dtype, order="C") for name, a in part.items()}
        if keeps and options.get("update_gate") == "replace":
            _negate_update_gate(part, hidden)
        mapping |= {_full_name(name, *divmod(k, directions)): a for name, a in part.items()}
    layer.load_state_dict(mapping)
    return layer


def _kind_of(part: Fields) -> str:
    if "weight_hr" not in part:
        return _kind(TORCH, "weights", part["weight_ih"].shape, part["weight_hh"].shape)
    hr, hh = part["weight_hr"].shape, part["weight_hh"].shape
    if len(hr) != 2 or hh != (4 * hr[1], hr[0]):
        raise ValueError(f"weights: expected weight_hr (P, H) and weight_hh (4*H, P), got {hr} and {hh}")
    return "lstm"


def _kind(convention: Convention, where: str, ih: tuple[int, ...], hh: tuple[int, ...]) -> str:
    """What these shapes are under a convention: "rnn", "gru" or "lstm"."""
    kind = _fits(convention, ih, hh)
    if kind is not None:
        return kind
    expected = " and ".join(f"{name} ({', '.join(shape)})" for name, shape in (convention.input, convention.recurrent))
    likes = [f"{other.framework}'s {like.upper()}" for other in (TORCH, KERAS, ONNX) if (like := _fits(other, ih, hh))]
    guess = f"; they look like {' or '.join(likes)}" if likes else ""
    raise ValueError(f"{where}: expected {convention.framework}'s {expected}, G = 1, 3 or 4, got {ih} and {hh}{guess}")


def _fits(convention: Convention, ih: tuple[int, ...], hh: tuple[int, ...]) -> str | None:
    """The kind of cell whose weights have these shapes under the convention, if there is one."""
    for gates, kind in BLOCKS.items():
        sizes = {"G": gates}
        # The recurrent weights first: they show H.
        if _bind(convention.recurrent[1], hh, sizes) and _bind(convention.input[1], ih, sizes):
            return kind
    return None


def _bind(symbols: tuple[str, ...], shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
    """Whether a shape is what the symbols say; sizes not known yet are entered into `sizes`."""
    if len(symbols) != len(shape):
        return False
    axes = sorted(zip(symbols, shape, strict=True), key=lambda axis: "*" in axis[0])  # plain symbols first
    for symbol, size in axes:
        if "*" not in symbol:
            if sizes.setdefault(symbol, size) != size:
                return False
        elif size != np.prod([sizes[factor] for factor in symbol.split("*")]):
            return False
    return True


def _what(value: object) -> str:
    if isinstance(value, (dict, list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
