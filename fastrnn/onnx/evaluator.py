"""Classes for onnx.reference.ReferenceEvaluator, so that whole models run with fastrnn doing their recurrent nodes."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from fastrnn.onnx.run import run_op
from fastrnn.onnx.spec import INPUTS, OUTPUTS, domain_of

__all__ = ["GRU", "LSTM", "RNN", "DynamicQuantizeLSTM", "ops"]


class _Recurrent(OpRun):
    """Looked up by the operator's name, which is the class's."""

    def _run(self, *inputs: NDArray | None, **attrs: Any) -> tuple[NDArray, ...]:
        name = type(self).__name__
        outputs = run_op(name, dict(zip(INPUTS[name], inputs, strict=False)), attrs)
        return tuple(outputs[output] for output in OUTPUTS[name][: len(self.onnx_node.output)])


class RNN(_Recurrent):
    pass


class GRU(_Recurrent):
    pass


class LSTM(_Recurrent):
    pass


class DynamicQuantizeLSTM(_Recurrent):
    op_domain = domain_of("DynamicQuantizeLSTM")


# For ReferenceEvaluator(model, new_ops=ops), which hands them on to the bodies of Loop, If and Scan, but not to the
# model's functions: onnx.inliner.inline_local_functions(model) makes these part of the graph.
ops: list[type[OpRun]] = [RNN, GRU, LSTM, DynamicQuantizeLSTM]
