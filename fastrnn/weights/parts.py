"""What all conversions share: which cell has weights of given shapes, layers built of parts and taken apart again.

A part is what one direction of one layer has: arrays by the names of `fastrnn.engines.seam.Weights`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastrnn import arguments, validate
from fastrnn.engines.cell import CELLS, Cell
from fastrnn.engines.precision import Int8, Narrow
from fastrnn.frozen import Frozen
from fastrnn.layers import GRU, LAYERS, LSTM, RNN, SLSTM, MinGRU, MinLSTM, Recurrent
from fastrnn.params import check_names
from fastrnn.stack import Stack
from fastrnn.weights.conventions import KERAS, ONNX, TORCH, Convention

__all__ = [
    "Layer", "Part", "as_array", "build", "checked", "described", "exported", "fitting", "full_name", "read_as",
    "regate",
]  # fmt: skip

Layer: TypeAlias = "RNN | LSTM | GRU | SLSTM | MinGRU | MinLSTM"
Part: TypeAlias = "dict[str, NDArray]"
Shape: TypeAlias = "tuple[int, ...]"

INITIAL = ("initial_h", "initial_c", "initial_n", "initial_m")
"""What a part has, besides `Weights`, of a layer that learns its initial state."""
_WIDENED = {"float16": "float32", "bfloat16": "float32"}  # no value changes


# ---- Layers from parts and back ------------------------------------------------------------------------------------


def checked(layer: Layer | Frozen) -> Layer:
    """The layer, if it is one."""
    if not isinstance(layer, Recurrent):
        raise TypeError(f"layer: expected an RNN, LSTM or GRU, got {described(layer)}")
    return layer


def exported(layer: Layer | Frozen, framework: str, frozen: bool = False) -> list[Part]:
    """Copies of a layer's parameters by layer and direction, with an update gate that keeps.

    With `frozen` it may be a frozen layer, whose matrices may be `Narrow`. Where an update gate replaces they are
    widened.

    Raises
    ------
    TypeError, ValueError
        If it is no layer, or the framework does not have such a one.
    """
    cell = (layer if frozen and isinstance(layer, Frozen) else checked(layer)).cell
    if framework in cell.missing:
        raise ValueError(f"layer: expected one that {framework} has, got {cell.missing[framework]}")
    if layer._stack.learn_initial_state:
        raise ValueError(f"layer: expected one that {framework} has, got one with a learnt initial state")
    found = layer._weights if isinstance(layer, Frozen) else arguments.weights(layer._stack, layer.params)
    parts = [{name: a.copy() for name, a in w._asdict().items() if a is not None} for w in found]
    for part in parts if cell.replaces else ():
        part |= {name: a.widened() for name, a in part.items() if isinstance(a, Narrow)}
        _negate_update_gate(part, cell)
    return parts


def build(
    parts: list[Part], directions: int, kind: str | None, dtype: Any, options: Mapping[str, Any],
    update_gate: str | None = "keep",
) -> Layer:  # fmt: skip
    """A layer of these parts, by layer and direction, in our shapes and order of gates.

    `update_gate`: what that of these weights does, whatever the layer's is to do; None: the same.
    """
    initial = [{name: part.pop(name) for name in INITIAL if name in part} for part in parts]
    cells = _cells_of({name: a.shape for name, a in parts[0].items()}, kind)
    if kind is not None:
        kinds = [cell.kind for cell in cells]
        if validate.choice("kind", kind, tuple(CELLS)) not in kinds:
            raise ValueError(f"kind: expected weights of {kind!r}, got those of {kinds[0]!r}")
        cells = [cell for cell in cells if cell.kind == kind]
    cell = _named(cells, options)
    dtypes = sorted({_WIDENED.get(a.dtype.name, a.dtype.name) for part in parts for a in part.values()})
    if any(a.dtype.kind not in "fiub" and a.dtype.name not in _WIDENED for part in parts for a in part.values()):
        raise TypeError(f"weights: expected arrays of real numbers, got {', '.join(dtypes)}")
    if dtype is None:
        if len(dtypes) > 1 or dtypes[0] not in ("float32", "float64"):
            raise TypeError(f"weights: expected all float32 or all float64, got {', '.join(dtypes)}; give dtype=...")
        dtype = dtypes[0]
    read: dict[str, Any] = {name: cell.options[name] for name in _read_options(cell)}
    read |= {"num_layers": len(parts) // directions, "bidirectional": directions == 2, "bias": cell.bias}
    read["learn_initial_state"] = any(initial)
    for option, value in options.items():
        if option in read and option not in cell.hidden_options:
            raise TypeError(f"{option}: expected only options that weights do not show, which are read off them")
        if option in read and value != read[option]:
            raise ValueError(f"{option}: expected weights for {value!r}, got those for {read[option]!r}")
    _check_shapes(parts, directions, cell)  # first, so that a layer takes no more memory than the arrays
    layer = LAYERS[cell.kind](cell.input_size, cell.hidden_size, **{**options, **read}, dtype=dtype)
    mapping: dict[str, NDArray] = {}
    for k, part in enumerate(parts):
        part = {name: a.astype(layer.dtype, order="C") for name, a in part.items()}
        if update_gate is not None and layer.cell.replaces != (update_gate == "replace"):
            _negate_update_gate(part, layer.cell)
        part |= {name: a.astype(layer.dtype) for name, a in initial[k].items()}
        mapping |= {full_name(name, *divmod(k, directions)): a for name, a in part.items()}
    layer.load_state_dict(mapping)
    return layer


def _check_shapes(parts: list[Part], directions: int, bottom: Cell) -> None:
    """Raise what `load_state_dict` raises for names and shapes, without a layer."""
    stack = Stack.of(bottom, len(parts) // directions, (False, True)[:directions], False)
    shapes = dict(named for k in range(len(stack.cells)) for named in stack.names(k).values())
    arrays = {full_name(name, *divmod(k, directions)): a for k, part in enumerate(parts) for name, a in part.items()}
    check_names("mapping", arrays, shapes)
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name}: expected {shape}, got {arrays[name].shape}")


def as_array(name: str, value: Any) -> NDArray:
    """`value` as an array: array_like, or a tensor of PyTorch's on any device, in a graph or not."""
    torch = sys.modules.get("torch")  # where there is a tensor, it has been imported
    if torch is None or not isinstance(value, torch.Tensor):
        return validate.as_ndarray(name, value)
    try:
        return (value.float() if value.dtype is torch.bfloat16 else value).numpy(force=True)  # NumPy has no bfloat16
    except (RuntimeError, TypeError, NotImplementedError) as error:
        got = f"{value.dtype}, {value.layout} on {value.device}"
        raise TypeError(f"{name}: expected a tensor that can become an array, got {got} ({error})") from error


def full_name(field: str, layer: int, direction: int) -> str:
    """A parameter's name in a layer."""
    return f"{field}_l{layer}" + ("_reverse" if direction else "")


def regate(rows: Any, source: str, target: str) -> Any:
    """Reorder the gates' blocks along the first axis, of an array or `Int8`; `rows` itself if nothing changes.

    A block that the target does not have is left out; one that only the target has is zeros.
    """
    if source == target:
        return rows
    if isinstance(rows, Int8):
        return Int8(regate(rows.values, source, target), regate(rows.scales, source, target))
    blocks = dict(zip(source, np.split(rows, len(source)), strict=True))
    return np.concatenate([blocks[gate] if gate in blocks else np.zeros_like(blocks[source[0]]) for gate in target])


def described(value: object) -> str:
    """What an argument is, for an error."""
    if isinstance(value, (dict, list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


def _negate_update_gate(part: Part, cell: Cell) -> None:
    """Turn an update gate that replaces into one that keeps, or back: 1 - sigmoid(a) is sigmoid(-a)."""
    start = cell.gates.index("z") * cell.hidden_size
    rows = slice(start, start + cell.hidden_size)
    normalised = "norm_hh" in part  # then gains are negated instead of what is normalised with other gates
    for name, value in part.items():
        if value.any() and not (
            normalised and name.startswith("weight")
        ):  # a bias that is not there stays 0.0, not -0.0
            np.negative(value[rows], out=value[rows])


# ---- Which cell ----------------------------------------------------------------------------------------------------


def read_as(convention: Convention, where: str, ih: Shape, hh: Shape, options: Mapping[str, Any]) -> Cell:
    """The cell whose weights have these shapes under a framework's convention.

    Of several it is the one that the caller's options name, else the one that PyTorch has. Only those options are set
    in it that the shapes show.
    """
    found = fitting(convention, ih, hh)
    if not found:
        raise _misfit(convention, where, ih, hh)
    return _named(found, options)


def fitting(convention: Convention, ih: Shape, hh: Shape) -> list[Cell]:
    """The cells whose weights have these shapes under a framework's convention."""
    found = []
    for kind, gates in convention.gates.items():
        sizes = {"G": len(gates)}
        # The recurrent weights first: they show H.
        if _bind(convention.recurrent[1], hh, sizes) and _bind(convention.input[1], ih, sizes):
            found += [
                CELLS[kind](sizes["I"], sizes["H"], np.dtype(np.float32), **options)
                for options in CELLS[kind].structures({})
            ]
    return [cell for cell in found if convention.framework not in cell.missing]


def _cells_of(shapes: Mapping[str, Shape], kind: str | None) -> list[Cell]:
    """The cells whose weights have these shapes and, if there are such cells, whose other parameters have these names.

    Other parameters that do not fit are an error when they are loaded.
    """
    weights = ("weight_ih", "weight_hh", "weight_hr")
    found = []
    if all(len(shapes[name]) == 2 for name in weights if name in shapes):
        ways = _ways(shapes, kind)
        found = [cell for cell in ways if all(cell.shapes().get(name) == shapes.get(name) for name in weights)]
    if found:
        return [cell for cell in found if cell.shapes().keys() == shapes.keys()] or found
    ih = shapes["weight_ih"]
    if "weight_hh" not in shapes:
        raise ValueError(f"weights: expected weight_ih (G*H, I), G = 2 of a MinGRU or 3 of a MinLSTM, got {ih}")
    hh = shapes["weight_hh"]
    if "weight_hr" not in shapes:
        raise _misfit(TORCH, "weights", ih, hh)
    G = next(len(cell.gates) for cell in _ways(dict.fromkeys(weights, (1, 2)), None) if "weight_hr" in cell.shapes())
    hr = shapes["weight_hr"]
    raise ValueError(f"weights: expected weight_hr (P, H) and weight_hh ({G}*H, P), got {hr} and {hh}")


def _ways(shapes: Mapping[str, Shape], kind: str | None) -> Iterator[Cell]:
    """Each cell, with the sizes and options that may be read off these shapes; the rest of them need not fit.

    A cell that PyTorch does not have is one of them only if it is of the kind that is asked for.
    """
    rows, I = shapes["weight_ih"]
    shown = [shapes[name][1] for name in ("weight_hr", "weight_hh") if name in shapes]
    bias = "bias_ih" in shapes or "bias_hh" in shapes
    for cell in CELLS.values():
        if not cell.torch.gates and cell.kind != kind:
            continue
        for options in cell.structures(shapes):
            H = shown[0] if shown else rows // len(cell(I, 1, np.dtype(np.float32), **options).gates)
            yield cell(I, H * options.get("num_heads", 1), np.dtype(np.float32), bias, **options)


def _named(cells: list[Cell], options: Mapping[str, Any]) -> Cell:
    """Of cells that fit, the one that a caller's options name, else what PyTorch has."""
    own = {name: v for name, v in options.items() if any(name in cell.defaults() for cell in CELLS.values())}

    def fits(cell: Cell) -> bool:
        read = _read_options(cell)
        return all(name in cell.options and (name not in read or cell.options[name] == v) for name, v in own.items())

    among = [cell for cell in cells if fits(cell)] or cells
    return next((cell for cell in among if "PyTorch" not in cell.missing), among[0])


def _read_options(cell: Cell) -> list[str]:
    """The options on which the shapes of the cell's parameters depend."""
    return list(cell.structures({})[0])


def _misfit(convention: Convention, where: str, ih: Shape, hh: Shape) -> ValueError:
    """The error for weights that no cell has; it says what they look like."""
    expected = " and ".join(f"{name} ({', '.join(shape)})" for name, shape in (convention.input, convention.recurrent))
    *counts, most = sorted({len(gates) for gates in convention.gates.values()})
    likes = [
        f"{other.framework}'s {_named(cells, {}).kind.upper()}"
        for other in (TORCH, KERAS, ONNX)
        if (cells := fitting(other, ih, hh))
    ]
    guess = f"; they look like {' or '.join(likes)}" if likes else ""
    blocks = f"{', '.join(map(str, counts))} or {most}"
    return ValueError(f"{where}: expected {convention.framework}'s {expected}, G = {blocks}, got {ih} and {hh}{guess}")


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
