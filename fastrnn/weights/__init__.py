"""Weights of other frameworks: PyTorch's, Keras 3's and ONNX's, to and from layers, without the loss of a bit.

`from_xlstm` takes those of the package xlstm, and `from_arrays` those of all others: plain arrays, with their order of
gates.

`CONVENTIONS` says how each framework keeps them. All functions copy: a layer shares no memory with what it came from.
"""

from __future__ import annotations

from fastrnn.weights.arrays import from_arrays
from fastrnn.weights.conventions import CONVENTIONS, convention_table
from fastrnn.weights.files import load, save
from fastrnn.weights.keras import from_keras, to_keras
from fastrnn.weights.onnx import from_onnx, to_onnx
from fastrnn.weights.torch import from_torch, to_torch
from fastrnn.weights.xlstm import from_xlstm, to_xlstm

__all__ = [
    "CONVENTIONS",
    "convention_table",
    "from_arrays",
    "from_keras",
    "from_onnx",
    "from_torch",
    "from_xlstm",
    "load",
    "save",
    "to_keras",
    "to_onnx",
    "to_torch",
    "to_xlstm",
]
