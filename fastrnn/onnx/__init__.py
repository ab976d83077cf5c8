"""ONNX's RNN, GRU and LSTM: single operators, whole models, and their weights as layers.

`run_op` and `run_grad` need NumPy alone. `ops` (for onnx.reference.ReferenceEvaluator) and `load` need the package
onnx: ``pip install fastrnn[onnx]``. `session` needs onnxruntime as well: ``pip install fastrnn[onnxruntime]``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastrnn.onnx.run import run_grad, run_op
from fastrnn.pages import needs

if TYPE_CHECKING:
    from fastrnn.onnx.evaluator import ops
    from fastrnn.onnx.models import load
    from fastrnn.onnx.sessions import Session, SessionStream, session

__all__ = ["Session", "SessionStream", "load", "ops", "run_grad", "run_op", "session"]

_NEED_MORE = {
    "ops": "fastrnn.onnx.evaluator", "load": "fastrnn.onnx.models", "session": "fastrnn.onnx.sessions",
    "Session": "fastrnn.onnx.sessions", "SessionStream": "fastrnn.onnx.sessions",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _NEED_MORE:
        raise AttributeError(f"module 'fastrnn.onnx' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_NEED_MORE[name]), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("onnx", "onnxruntime"):
            raise
        extra = "onnxruntime" if _NEED_MORE[name] == "fastrnn.onnx.sessions" else "onnx"
        raise ImportError(needs(f"fastrnn.onnx.{name}", missing, f"fastrnn[{extra}]", "how-to/onnx")) from error
