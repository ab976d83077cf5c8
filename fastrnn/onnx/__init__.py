"""ONNX's RNN, GRU and LSTM: single operators, whole models, and their weights as layers.

`run_op` and `run_grad` need NumPy alone. `ops` (for onnx.reference.ReferenceEvaluator) and `load` need the package
onnx: ``pip install fastrnn[onnx]``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastrnn.onnx.run import run_grad, run_op

if TYPE_CHECKING:
    from fastrnn.onnx.evaluator import ops
    from fastrnn.onnx.models import load

__all__ = ["load", "ops", "run_grad", "run_op"]

_NEEDS_ONNX = {"ops": "fastrnn.onnx.evaluator", "load": "fastrnn.onnx.models"}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_ONNX:
        raise AttributeError(f"module 'fastrnn.onnx' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_NEEDS_ONNX[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "onnx":
            raise
        raise ImportError(f"fastrnn.onnx.{name} needs the package onnx: pip install fastrnn[onnx]") from error
