"""Weights of ONNX's recurrent operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.engines.cell import Cell
from fastrnn.engines.precision import Int8, Narrow, narrowed
from fastrnn.frozen import Frozen, checked_precision
from fastrnn.weights.conventions import ONNX
from fastrnn.weights.parts import Layer, Part, build, described, exported, read_as, regate

__all__ = ["from_onnx", "join", "split", "to_onnx"]


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
        What weights do not show: `nonlinearity`, `update_gate`, `batch_first`, `dropout`, `rng`; `coupled=True` for an
        LSTM with input_forget, whose tensors have a gate f that is left out.

    Returns
    -------
    RNN, LSTM or GRU

    Raises
    ------
    TypeError, ValueError
        As `from_torch`.
    """
    if not isinstance(tensors, (Mapping, Sequence)) or isinstance(tensors, (str, bytes)):
        raise TypeError(f"tensors: expected names and arrays, or a list of such, got {described(tensors)}")
    nodes = [tensors] if isinstance(tensors, Mapping) else list(tensors)
    if reset_after is not None:
        reset_after = validate.flag("reset_after", reset_after)
    parts: list[Part] = []
    counts = set()
    for k, node in enumerate(nodes):
        where = f"tensors[{k}]" if not isinstance(tensors, Mapping) else "tensors"
        if not isinstance(node, Mapping):
            raise TypeError(f"{where}: expected names and arrays, got {type(node).__name__}")
        given = {name: value for name, value in node.items() if value is not None}
        if not {"W", "R"} <= given.keys() <= {"W", "R", "B", "P"}:
            names = ", ".join(map(str, given)) or "nothing"
            raise ValueError(f"{where}: expected W, R and maybe B and P, got {names}")
        arrays = {name: validate.as_ndarray(name, value) for name, value in given.items()}
        for name, a in arrays.items():
            if a.dtype.kind not in "fiub" and a.dtype.name != "bfloat16":
                raise TypeError(f"{where}[{name!r}]: expected an array of real numbers, got {a.dtype}")
        cell = read_as(ONNX, where, arrays["W"].shape, arrays["R"].shape, options)
        if "P" in arrays and not cell.onnx.peepholes:
            raise ValueError(f"{where}: expected P only of an LSTM, got it of {cell.onnx.operator}")
        D, H = len(arrays["W"]), arrays["R"].shape[2]
        for name, rows in (("B", 2 * len(cell.onnx.gates) * H), ("P", 3 * H)):
            if name in arrays and arrays[name].shape != (D, rows):
                raise ValueError(f"{name}: expected {(D, rows)}, got {arrays[name].shape}")
        counts.add(D)
        parts += [split(cell, {name: a[d] for name, a in arrays.items()}) for d in range(D)]
    if len(counts) != 1 or not counts <= {1, 2}:
        raise ValueError(f"tensors: expected nodes of 1 or of 2 directions, got {sorted(counts)}")
    if len({tuple(part) for part in parts}) > 1:
        raise ValueError("tensors: expected the same of W, R, B, P in all nodes")
    if "reset_after" in cell.options:
        options["reset_after"] = bool(reset_after)
    elif reset_after is not None:
        raise TypeError(f"reset_after: expected only for a GRU, got it for an {cell.kind.upper()}")
    return build(parts, max(counts), cell.kind, dtype, options)


def to_onnx(layer: Layer | Frozen, *, precision: Any = None) -> list[dict[str, NDArray]]:
    """Return a layer's parameters as W, R and, where it has them, B and P: a dict for each layer, the lowest first.

    The inverse of `from_onnx`. A GRU with reset_after=True is a node with linear_before_reset=1.

    Parameters
    ----------
    layer : RNN, LSTM, GRU or Frozen
    precision : {"float32", "int8"} or sequence of them, optional
        For all layers, or one for each. Layers of int8 are those of ONNX Runtime's operator DynamicQuantizeLSTM: W
        (D, I, 4*H) and R (D, H, 4*H) of int8, W_scale and R_scale (D, 4*H), W_zero_point and R_zero_point, all zeros.
        Default: int8 for layers that are frozen so, whose weights are not rounded again, else the layer's dtype.

    Raises
    ------
    TypeError, ValueError
        If the layer has a projection, which ONNX does not, or `precision` is none of these, or is int8 of another layer
        than a float32 LSTM, or of one whose weights are not finite.
    """
    parts, cell = exported(layer, "ONNX", frozen=True), layer.cell
    if precision is None:
        own = checked_precision(layer._stack, layer.precision if isinstance(layer, Frozen) else None)
        kinds = tuple("float32" if kind == "bfloat16" else kind for kind in own)
    else:
        kinds = checked_precision(layer._stack, precision)
    for kind in kinds:
        if kind == "bfloat16":
            raise ValueError("precision: expected float32 or int8, for ONNX has no such operators of bfloat16")
        if kind == "int8" and cell.kind != "lstm":
            raise ValueError(
                f"precision: expected int8 of an LSTM only, as ONNX Runtime has it, got a {cell.kind.upper()}"
            )
    D = 1 + layer.bidirectional
    nodes = []
    for k, kind in enumerate(kinds):
        joined = [_tensors(join(cell, _in_precision(part, kind))) for part in parts[k * D : (k + 1) * D]]
        nodes.append({name: np.stack([arrays[name] for arrays in joined]) for name in joined[0]})
    return nodes


def _in_precision(part: Part, precision: str) -> Part:
    """A part whose matrices are `Int8` or arrays; those that are `Int8` already are not rounded again."""
    part = dict(part)
    for name in ("weight_ih", "weight_hh"):
        matrix: Any = part[name]
        if isinstance(matrix, Narrow) and matrix.precision != precision:
            matrix = matrix.widened()
        part[name] = narrowed(matrix, precision)
    return part


def _tensors(arrays: dict[str, Any]) -> dict[str, NDArray]:
    """One direction's tensors, W and R of `Int8` with their scales and zero points."""
    tensors: dict[str, NDArray] = {}
    for name, a in arrays.items():
        if isinstance(a, Int8):
            tensors |= {name: np.ascontiguousarray(a.values.T), f"{name}_scale": a.scales}
            tensors |= {f"{name}_zero_point": np.zeros(len(a.scales), np.int8)}
        else:
            tensors[name] = a
    return tensors


def split(cell: Cell, arrays: Mapping[str, NDArray]) -> Part:
    """One direction's W, R, B and P as parameters of the cell, in our order of gates."""
    part = {"weight_ih": arrays["W"], "weight_hh": arrays["R"]}
    if "B" in arrays:
        rows = len(arrays["B"]) // 2
        part |= {"bias_ih": arrays["B"][:rows], "bias_hh": arrays["B"][rows:]}
    part = {name: regate(a, cell.onnx.gates, cell.gates) for name, a in part.items()}
    if "P" in arrays:
        peepholes = regate(arrays["P"], cell.onnx.peepholes, cell.peepholes)
        part["peephole"] = peepholes.reshape(len(cell.peepholes), -1)
    return part


def join(cell: Cell, part: Mapping[str, NDArray | None]) -> dict[str, NDArray]:
    """The inverse of `split`; parameters may be None."""
    there = {
        name: regate(a, cell.gates, cell.onnx.gates) for name, a in part.items() if a is not None and name != "peephole"
    }
    arrays = {"W": there["weight_ih"], "R": there["weight_hh"]}
    if "bias_ih" in there:
        arrays["B"] = np.concatenate([there["bias_ih"], there["bias_hh"]])
    peephole = part.get("peephole")
    if peephole is not None:
        arrays["P"] = regate(peephole.reshape(-1), cell.peepholes, cell.onnx.peepholes)
    return arrays
