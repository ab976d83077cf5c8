"""What takes the place of a layer's method `inner_loop`, in which Keras runs the time steps.

All that surrounds the steps stays Keras's: initial states, stateful layers, casts, what a call returns, and in
Bidirectional the two layers and how they are merged.
"""

from __future__ import annotations

import importlib
from typing import Any

import keras

from fastrnn.keras.arrays import Weights
from fastrnn.keras.calls import Call, recognise

__all__ = ["InnerLoop"]

BACKENDS = ("torch", "jax", "tensorflow", "numpy")


class InnerLoop:
    """The time steps of one layer: on the kernels where they take the call, else by the layer's own method."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.weights, name = layer, Weights(), keras.config.backend()
        self.refused = ""  # why the last call was Keras's
        self._backend = importlib.import_module(f"fastrnn.keras.{name}") if name in BACKENDS else None
        self._supports_jit = layer.supports_jit
        if name == "tensorflow":
            layer.supports_jit = False  # XLA cannot call Python

    def __call__(self, sequences: Any, initial_state: Any, mask: Any, training: Any = False) -> Any:
        """See `keras.layers.RNN.inner_loop`."""
        found: Any = "Keras's backend is none of " + ", ".join(BACKENDS)
        if self._backend is not None:
            found = recognise(self.layer, sequences, initial_state, mask, training)
            if not isinstance(found, str):
                found = self._backend.run(self, found, training)
        self.refused = found if isinstance(found, str) else ""
        return self.by_keras(sequences, initial_state, mask, training) if self.refused else found

    def by_keras(self, sequences: Any, initial_state: Any, mask: Any, training: Any = False) -> Any:
        """The layer's own method."""
        return type(self.layer).inner_loop(self.layer, sequences, initial_state, mask=mask, training=training)

    def of_arrays(self, call: Call, x: Any, *others: Any) -> list[Any]:
        """`by_keras` as a function of arrays, for gradients: `call.arrays()` and, if there is one, the mask."""
        cell, count, rest = self.layer.cell, 1 + call.cell.has_c, list(others)
        mask = None if call.mask is None else rest.pop()
        variables = [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]
        with keras.StatelessScope(state_mapping=list(zip(variables, rest[count:], strict=True))):
            last, y, states = self.by_keras(x, rest[:count], mask)
        return [y if call.all_outputs else last, *states]

    def end(self) -> None:
        """Leave the layer as it was."""
        self.layer.supports_jit = self._supports_jit
