"""Single operators: what they give, and their gradients."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines, validate
from fastrnn.onnx import general, imitation, kernels, spec

__all__ = ["run_grad", "run_op"]

log = logging.getLogger("fastrnn.onnx")


def run_op(
    op_type: str, inputs: Mapping[str, Any], attrs: Mapping[str, Any] | None = None, *, explain: bool = False,
    activation_scale: str = "row",
) -> dict[str, Any]:  # fmt: skip
    """Run ONNX's RNN, GRU or LSTM, of any opset from 7 on, or ONNX Runtime's DynamicQuantizeLSTM.

    Parameters
    ----------
    op_type : {"RNN", "GRU", "LSTM", "DynamicQuantizeLSTM"}
    inputs : mapping of str to array_like
        By the specification's names: X, W, R and, optionally, B, sequence_lens, initial_h and, of an LSTM, initial_c
        and P. None is as if it were not there. float32, float64, float16 or bfloat16, all alike; sequence_lens of any
        integer type. float16 and bfloat16 are computed in float32 and the outputs rounded. Of a DynamicQuantizeLSTM
        the arrays are float32, but for W (D, I, 4*H), R (D, H, 4*H), W_zero_point and R_zero_point, all int8 or all
        uint8. W_scale, R_scale and the zero points are (D,) or (D, 4*H).
    attrs : mapping of str to object, optional
        By the specification's names; defaults are the specification's. Names of activations in any case.
    explain : bool, default False
        Whether to say what ran it. The logger "fastrnn.onnx" says it at level DEBUG for every call.
    activation_scale : {"row", "onnxruntime"}, default "row"
        How a DynamicQuantizeLSTM rounds x and h: each row of each step by itself, as `freeze(precision="int8")` does,
        or all rows at once, as ONNX Runtime does on one thread. The latter is for comparisons: it runs in NumPy, and a
        row's result depends on the rows and steps around it.

    Returns
    -------
    dict of str to ndarray
        Y, Y_h and, of an LSTM, Y_c, in the dtype of X. Y is zero past a sequence's end; final states are those of the
        last valid step, the initial ones of a sequence without steps. With `explain`, "explain" has a str: "kernels"
        with the engine's name, or "general path" with what the kernels do not have. Of a DynamicQuantizeLSTM it says,
        too, where weights were widened: a weight less its zero point that is not in -128..127 has no place in int8, and
        then all are float32.

    Raises
    ------
    TypeError, ValueError
        If an input or attribute is unknown, missing, or has a wrong dtype, shape or value; before any work.

    References
    ----------
    https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html;
    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.DynamicQuantizeLSTM
    """
    node = spec.read_node(op_type, attrs)
    imitates = validate.choice("activation_scale", activation_scale, ("row", "onnxruntime")) != "row"
    if imitates and op_type not in spec.QUANTIZED:
        raise ValueError(
            f"activation_scale: expected 'row' for {op_type}, which rounds nothing, got {activation_scale!r}"
        )
    call = spec.read_call(node, inputs)
    obstacle = "the scales of ONNX Runtime" if imitates else kernels.obstacle(node, call.x.dtype)
    path = f"general path: the kernels do not have {obstacle}" if obstacle else f"kernels: {engines.current().name}"
    if op_type in spec.QUANTIZED and isinstance(call.w, np.ndarray):
        path += "; weights in float32: less their zero points they need more than 8 bits"
    if imitates:
        call = imitation.as_onnxruntime(call)
    log.debug("%s: %s", op_type, path)
    outputs: dict[str, Any] = _rounded(call, general.run(call) if obstacle else kernels.run(call))
    return outputs | {"explain": path} if explain else outputs


def run_grad(
    op_type: str, inputs: Mapping[str, Any], attrs: Mapping[str, Any] | None, out_grads: Mapping[str, Any]
) -> dict[str, NDArray]:
    """Differentiate ONNX's RNN, GRU or LSTM.

    Parameters
    ----------
    op_type, inputs, attrs
        As for `run_op`, but weights of integers have no gradients.
    out_grads : mapping of str to array_like
        Gradients of the loss in Y, Y_h and Y_c, one or more of them, of the outputs' shapes and dtype. What is not
        there or None is zero. Y's is ignored past a sequence's end.

    Returns
    -------
    dict of str to ndarray
        Gradients of the loss in the inputs that were given, but for sequence_lens, of the inputs' shapes and dtype.

    Raises
    ------
    TypeError, ValueError
        As for `run_op`, and if `out_grads` has a wrong name, dtype or shape, or none at all.
    NotImplementedError
        If the kernels do not have what the attributes ask for: other activations, clipping.
    """
    validate.choice("op_type", op_type, tuple(name for name in spec.INPUTS if name not in spec.QUANTIZED))
    call = spec.read_call(spec.read_node(op_type, attrs), inputs)
    checked = spec.read_out_grads(call, out_grads)
    obstacle = kernels.obstacle(call.node, call.x.dtype)
    if obstacle:
        raise NotImplementedError(f"run_grad: expected what the kernels have, got {obstacle}, which only run_op has")
    grads = _rounded(call, kernels.run_grad(call, checked))
    return {name: grads[name] for name in call.given if name != "sequence_lens"}


def _rounded(call: spec.Call, arrays: dict[str, NDArray]) -> dict[str, NDArray]:
    """Results in the dtype of the inputs."""
    return {name: a.astype(call.dtype, copy=False) for name, a in arrays.items()}
