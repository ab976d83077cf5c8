"""Runs of a layer, with a name for each result, and the oracle: the same run by the reference engine in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastrnn

__all__ = [
    "FINAL", "INITIAL", "Call", "Results", "float64_twin", "infer", "named_state", "oracle", "parts", "train",
]  # fmt: skip

Results = dict[str, NDArray]

# The names of a final state's parts in results, and of the gradients in an initial one's; h, c, n, m, or the first few.
FINAL = ("h_n", "c_n", "n_n", "m_n")
INITIAL = ("grad h0", "grad c0", "grad n0", "grad m0")


@dataclass
class Call:
    """Arguments of a run, and the gradients of the loss in its results."""

    x: NDArray
    state: Any = None
    lengths: NDArray | None = None
    resets: NDArray | None = None
    dy: NDArray | None = None
    dstate: Any = None
    mask: NDArray | None = None
    masked_output: str = "zero"

    def astype(self, dtype: Any) -> Call:
        return self.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a)

    def map(self, function: Any) -> Call:
        """The call with `function` applied to every array."""

        def apply(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(apply, value))
            return value if value is None or isinstance(value, str) else function(value)

        return Call(**{field.name: apply(getattr(self, field.name)) for field in fields(self)})

    @property
    def steps(self) -> dict[str, Any]:
        """The arguments of a run that say which steps of it are run, and how."""
        names = ("lengths", "resets", "mask", "masked_output")
        return {name: getattr(self, name) for name in names}

    def arrays(self) -> list[NDArray]:
        found: list[NDArray] = []
        self.map(found.append)
        return found


def parts(state: Any) -> tuple[NDArray, ...]:
    """Return (h, c) of an LSTM's state, (h, c, n, m) of an sLSTM's, (h,) of any other."""
    return state if isinstance(state, tuple) else (state,)


def named_state(state: Any, names: tuple[str, ...] = FINAL) -> Results:
    return dict(zip(names, parts(state), strict=False))


def infer(layer: Any, call: Call) -> Results:
    """Return the results of calling a layer or a frozen layer."""
    y, state = layer(call.x, call.state, **call.steps)
    return {"y": y, **named_state(state)}


def train(layer: Any, call: Call, **options: Any) -> Results:
    """Return results and gradients of a layer's forward and backward; without `dy` and `dstate`, results only."""
    y, state, tape = layer.forward(call.x, call.state, **call.steps, **options)
    results = {"y": y, **named_state(state)}
    if call.dy is None and call.dstate is None:
        return results
    grads = layer.backward(tape, call.dy, call.dstate)
    results |= {"grad x": grads.x, **named_state(grads.state, INITIAL)}
    return results | {f"grad {name}": grad for name, grad in grads.params.items()}


def oracle(layer: Any, call: Call) -> Results:
    """Return what `train` should return for this layer and call."""
    with fastrnn.engines.use("reference"):
        return train(float64_twin(layer), call.astype(np.float64))


def float64_twin(layer: Any) -> Any:
    """Return a copy of the layer in float64. Its dropout draws the same numbers as the layer's next run."""
    twin = copy.deepcopy(layer)
    cells = tuple(replace(cell, dtype=np.dtype(np.float64)) for cell in layer._stack.cells)
    twin._stack = replace(layer._stack, cells=cells)
    twin.params = {name: value.astype(np.float64) for name, value in layer.params.items()}
    return twin
