"""Single operators: what they give, and their gradients."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from fastrnn import engines
from fastrnn.onnx import general, kernels, spec

__all__ = ["run_grad", "run_op"]

log = logging.getLogger("fastrnn.onnx")


def run_op(
    op_type: str, inputs: Mapping[str, Any], attrs: Mapping[str, Any] | None = None, *, explain: bool = False
) -> dict[str, Any]:
    """Run ONNX's RNN, GRU or LSTM, of any opset from 7 on.

    Parameters
    ----------
    op_type : {"RNN", "GRU", "LSTM"}
    inputs : mapping of str to array_like
        By the specification's names: X, W, R and, optionally, B, sequence_lens, initial_h and, of an LSTM, initial_c
        and P. None is as if it were not there. float32, float64, float16 or bfloat16, all alike; sequence_lens of any
        integer type. float16 and bfloat16 are computed in float32 and the outputs rounded.
    attrs : mapping of str to object, optional
        By the specification's names; defaults are the specification's. Names of activations in any case.
    explain : bool, default False
        Whether to say what ran it. The logger "fastrnn.onnx" says it at level DEBUG for every call.

    Returns
    -------
    dict of str to ndarray
        Y, Y_h and, of an LSTM, Y_c, in the dtype of X. Y is zero past a sequence's end; final states are those of the
        last valid step, the initial ones of a sequence without steps. With `explain`, "explain" has a str: "kernels"
        with the engine's name, or "general path" with what the kernels do not have.

    Raises
    ------
    TypeError, ValueError
        If an input or attribute is unknown, missing, or has a wrong dtype, shape or value; before any work.

    References
    ----------
    https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html
    """
    call = spec.read_call(spec.read_node(op_type, attrs), inputs)
    obstacle = kernels.obstacle(call.node, call.x.dtype)
    path = f"general path: the kernels do not have {obstacle}" if obstacle else f"kernels: {engines.current().name}"
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
        As for `run_op`.
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
