"""Weights of the sLSTM of the package xlstm (NX-AI): of its layer, `sLSTMLayer`, or of the cell in it, `sLSTMCell`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import arguments, validate
from fastrnn.layers import SLSTM
from fastrnn.weights.parts import Layer, Part, as_array, build, described

__all__ = ["from_xlstm", "to_xlstm"]

KERNEL, BIAS = "_recurrent_kernel_", "_bias_"
CELL = "slstm_cell."  # in a layer
GATES = ("fgate.weight", "igate.weight", "zgate.weight", "ogate.weight")  # of i, f, z, o: the package has it so
CONVOLUTION = "conv1d."


def from_xlstm(state_dict: Any, prefix: str = "", *, dtype: Any = None, **options: Any) -> Layer:
    """Build an `SLSTM` from the state dict of a layer or cell of the package xlstm.

    What is around the cell in that package's layer is no part of `SLSTM`: a convolution before it, and a normalisation
    after it. Names of theirs are left alone.

    Parameters
    ----------
    state_dict : mapping of str to array_like
        Of an `sLSTMLayer`, which begins with igate.weight, or of an `sLSTMCell`, which has no more than
        _recurrent_kernel_ and _bias_; of backend "vanilla" or "cuda", which shapes tell.
    prefix : str, default ""
        What the names begin with, say "blocks.1.xlstm."; other names are left alone.
    dtype : float32 or float64, optional
        What to convert to. Default: the arrays' own; float16 and bfloat16 become float32.
    **options
        What weights do not show: `batch_first`, `dropout`, `rng`.

    Returns
    -------
    SLSTM
        Of a layer: with input size E, its embedding size, and a weight_ih whose blocks are the heads of its gates.
        Where the layer has a convolution the input size is 2*E: first what the convolution and its activation give,
        which gates i and f read, then the layer's input, which z and o read. Of a cell: the input are its
        pre-activations, 4*H values, and weight_ih is the identity.

    Raises
    ------
    TypeError, ValueError
        If names or shapes are not those of a layer or cell, or dtypes differ or are others.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: expected names and arrays, got {described(state_dict)}")
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a str, got {type(prefix).__name__}")
    is_layer = prefix + CELL + KERNEL in state_dict
    cell = prefix + (CELL if is_layer else "")
    missing = [name for name in (cell + KERNEL, cell + BIAS) if name not in state_dict]
    missing += [prefix + name for name in GATES if is_layer and prefix + name not in state_dict]
    if missing:
        raise ValueError(f"state_dict: expected the names of an sLSTMLayer or sLSTMCell, missing {missing}")
    part = _recurrent(cell, as_array(cell + KERNEL, state_dict[cell + KERNEL]), state_dict[cell + BIAS])
    H = len(part["bias_ih"]) // 4
    if is_layer:
        heads = H // part["weight_hh"].shape[1]
        blocks = []
        for name in GATES:
            block = as_array(prefix + name, state_dict[prefix + name])
            if block.shape != (heads, H // heads, H // heads):
                raise ValueError(f"{prefix + name}: expected {(heads, H // heads, H // heads)}, got {block.shape}")
            blocks.append(_dense(block))
        columns = [0, 0, 0, 0]
        if any(isinstance(name, str) and name.startswith(prefix + CONVOLUTION) for name in state_dict):
            columns = [0, 0, 1, 1]
        part["weight_ih"] = _beside(blocks, columns)
    else:
        part["weight_ih"] = np.eye(4 * H, dtype=part["weight_hh"].dtype)
    return build([part], 1, "slstm", dtype, options)


def to_xlstm(layer: SLSTM, prefix: str = "", *, backend: str = "vanilla") -> dict[str, NDArray]:
    """Return an `SLSTM` as the state dict of an `sLSTMLayer` or `sLSTMCell`: the inverse of `from_xlstm`.

    Parameters
    ----------
    layer : SLSTM
        Of one layer and direction, with a weight_ih as `from_xlstm` makes it.
    prefix : str, default ""
        What to put before the names.
    backend : {"vanilla", "cuda"}, default "vanilla"
        Which backend's order of the cell's parameters; the names are the same.

    Returns
    -------
    dict of str to ndarray
        Copies. The names of a convolution or a normalisation are not among them.

    Raises
    ------
    TypeError, ValueError
        If it is no such layer.
    """
    if not isinstance(layer, SLSTM):
        raise TypeError(f"layer: expected an SLSTM, got {described(layer)}")
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a str, got {type(prefix).__name__}")
    backend = validate.choice("backend", backend, ("vanilla", "cuda"))
    if layer.num_layers > 1 or layer.bidirectional or layer._stack.learn_initial_state:
        raise ValueError("layer: expected one layer and direction without a learnt initial state, got another")
    (w,), H, N = arguments.weights(layer._stack, layer.params), layer.hidden_size, layer.cell.heads
    W, size = w.weight_ih, H // N
    bias = np.zeros(4 * H, layer.dtype) if w.bias_ih is None or w.bias_hh is None else w.bias_ih + w.bias_hh
    kernel = w.weight_hh.reshape(4, N, size, size)  # gate, head, to, from
    cell: Part = {
        KERNEL: kernel.transpose(1, 0, 2, 3).reshape(N, 4 * size, size),
        BIAS: bias,
    }
    if backend == "cuda":
        cell = {
            KERNEL: kernel.transpose(1, 3, 0, 2).reshape(N, size, 4 * size),
            BIAS: bias.reshape(4, N, size).transpose(1, 0, 2).reshape(-1),
        }
    if np.array_equal(W, np.eye(4 * H)):
        return {prefix + name: np.array(a, order="C") for name, a in cell.items()}
    columns = {H: [0, 0, 0, 0], 2 * H: [0, 0, 1, 1]}.get(layer.input_size)
    blocks = [np.zeros((N, size, size), layer.dtype)] * 4
    if columns is not None:
        gates = [W[k * H : (k + 1) * H, column * H : (column + 1) * H] for k, column in enumerate(columns)]
        blocks = [np.stack([gate[r : r + size, r : r + size] for r in range(0, H, size)]) for gate in gates]
    if columns is None or not np.array_equal(W, _beside([_dense(block) for block in blocks], columns)):
        raise ValueError(
            "layer: expected a weight_ih whose gates are blocks of heads, as from_xlstm makes it, got another"
        )
    found = {CELL + name: a for name, a in cell.items()} | dict(zip(GATES, blocks, strict=True))
    return {prefix + name: np.array(a, order="C") for name, a in found.items()}


def _recurrent(where: str, kernel: NDArray, bias: Any) -> Part:
    """weight_hh and the biases: ours have the rows of a gate together, those of a head within them."""
    shape = kernel.shape
    if kernel.ndim != 3 or 0 in shape or 4 * min(shape[1:]) != max(shape[1:]):
        raise ValueError(f"{where + KERNEL}: expected (N, 4*H/N, H/N) or (N, H/N, 4*H/N), got {shape}")
    N, size = shape[0], min(shape[1:])
    found = as_array(where + BIAS, bias)
    if found.shape != (4 * N * size,):
        raise ValueError(f"{where + BIAS}: expected {(4 * N * size,)}, got {found.shape}")
    if shape[1] > size:  # "vanilla": head, gate, to, from
        blocks = kernel.reshape(N, 4, size, size).transpose(1, 0, 2, 3)
    else:  # "cuda": head, from, gate, to
        blocks = kernel.reshape(N, size, 4, size).transpose(2, 0, 3, 1)
        found = found.reshape(N, 4, size).transpose(1, 0, 2).reshape(-1)
    return {
        "weight_hh": np.ascontiguousarray(blocks.reshape(4 * N * size, size)),
        "bias_ih": found.copy(),
        "bias_hh": np.zeros_like(found),
    }


def _dense(blocks: NDArray) -> NDArray:
    """(H, H) with the heads' blocks (N, H/N, H/N) on its diagonal."""
    N, size, _ = blocks.shape
    dense = np.zeros((N, size, N, size), blocks.dtype)
    dense[np.arange(N), :, np.arange(N)] = blocks
    return dense.reshape(N * size, N * size)


def _beside(gates: list[NDArray], columns: list[int]) -> NDArray:
    """The gates' (H, H) below each other, each in its block of columns."""
    H = len(gates[0])
    rows = np.zeros((4 * H, (1 + max(columns)) * H), gates[0].dtype)
    for k, (gate, column) in enumerate(zip(gates, columns, strict=True)):
        rows[k * H : (k + 1) * H, column * H : (column + 1) * H] = gate
    return rows
