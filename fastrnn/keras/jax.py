"""Keras's backend JAX: inference. What JAX traces, as `model.predict` does, calls back into Python.

Gradients are Keras's own: where JAX differentiates, it runs Keras's code instead of the callback.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from fastrnn.keras.arrays import infer
from fastrnn.keras.calls import Call

__all__ = ["run"]


def run(inner: Any, call: Call, training: Any) -> Any:
    """The results of `inner_loop`, or why the call is Keras's."""
    operands = [*call.arrays(), *([] if call.mask is None else [call.mask])]
    if not any(isinstance(a, jax.core.Tracer) for a in operands):
        if any(device.platform != "cpu" for a in operands for device in a.devices()):
            return "arrays that do not lie in the CPU's memory"
        return _results(call, [jax.numpy.asarray(a) for a in _infer(inner, call, operands)])
    if training:
        return "training with JAX"
    if jax.default_backend() != "cpu":
        return "JAX computes elsewhere than on the CPU"
    return _results(call, _traced(inner, call, operands))


def _results(call: Call, found: Any) -> Any:
    y, *states = found
    return y[:, -1] if call.all_outputs else y, y if call.all_outputs else y[:, None], states


def _infer(inner: Any, call: Call, operands: Any) -> tuple[Any, ...]:
    arrays = [np.asarray(a) for a in operands]
    mask = None if call.mask is None else arrays.pop()
    return infer(inner.weights, call, arrays, mask, True)


def _traced(inner: Any, call: Call, operands: list[Any]) -> Any:
    """A call back into Python, of which JAX knows the shapes of the results."""
    form = call._replace(x=None, states=[], weights=[], mask=None if call.mask is None else True)
    shape, dtype, count = call.states[0].shape, call.x.dtype, len(call.states)
    y_shape = (*call.x.shape[:2], shape[1]) if call.all_outputs else shape
    shapes = [jax.ShapeDtypeStruct(size, dtype) for size in (y_shape, *[shape] * count)]

    @jax.custom_jvp
    def steps(*operands: Any) -> Any:
        def back(*values: Any) -> list[Any]:
            return list(_infer(inner, form, values))

        return jax.pure_callback(back, shapes, *operands, vmap_method="sequential")

    @steps.defjvp
    def differentiate(primals: Any, tangents: Any) -> Any:
        return jax.jvp(functools.partial(inner.of_arrays, form), primals, tangents)

    return steps(*operands)
