"""Keras's backend TensorFlow: inference, eager and in graphs, from which it calls back into Python.

Gradients are Keras's own: where TensorFlow asks for them, Keras's code runs the call once more.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fastrnn.keras.arrays import infer
from fastrnn.keras.calls import Call

__all__ = ["run"]


def run(inner: Any, call: Call, training: Any) -> Any:
    """The results of `inner_loop`, or why the call is Keras's."""
    if training:
        return "training with TensorFlow"
    operands = [*call.arrays(), *([] if call.mask is None else [call.mask])]
    if tf.config.list_physical_devices("GPU"):
        return "TensorFlow computes elsewhere than on the CPU"
    y, *states = _steps(inner, call, list(map(tf.convert_to_tensor, operands)))  # no variables, but their values
    return y[:, -1] if call.all_outputs else y, y if call.all_outputs else y[:, None], states


def _steps(inner: Any, call: Call, operands: list[Any]) -> Any:
    form = call._replace(x=None, states=[], weights=[], mask=None if call.mask is None else True)
    shape, dtype, count = call.states[0].shape, call.x.dtype, len(call.states)
    y_shape = (*call.x.shape[:2], shape[1]) if call.all_outputs else shape

    def back(*values: Any) -> list[Any]:
        arrays = [value.numpy() if hasattr(value, "numpy") else value for value in values]
        mask = arrays.pop() if form.mask else None
        return list(infer(inner.weights, form, arrays, mask, False))

    @tf.custom_gradient
    def steps(*operands: Any) -> Any:
        if tf.executing_eagerly():
            found = [tf.convert_to_tensor(a) for a in back(*operands)]
        else:
            found = tf.numpy_function(back, operands, [dtype] * (1 + count))
        for t, size in zip(found, (y_shape, *[shape] * count), strict=True):
            t.set_shape(size)

        def differentiate(*dresults: Any) -> Any:
            differentiable = operands[: len(operands) - (form.mask is not None)]
            with tf.GradientTape() as tape:
                tape.watch(differentiable)
                results = inner.of_arrays(form, *operands)
            found = tape.gradient(results, differentiable, dresults)
            return [*found, *([None] if form.mask else [])]

        return found, differentiate

    return steps(*operands)
