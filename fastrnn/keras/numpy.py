"""Keras's backend NumPy, which has no gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn.keras.arrays import infer
from fastrnn.keras.calls import Call

__all__ = ["run"]


def run(inner: Any, call: Call, training: Any) -> Any:
    """The results of `inner_loop`, or why the call is Keras's."""
    y, *states = infer(inner.weights, call, call.arrays(), call.mask, True)
    return y[:, -1] if call.all_outputs else y, y if call.all_outputs else np.expand_dims(y, 1), states
