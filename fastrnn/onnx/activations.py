"""The activation functions that the specification of ONNX's recurrent operators lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FUNCTIONS", "Activation", "Function"]


class Function(NamedTuple):
    """A function of x, alpha and beta. A default is None where the function has no such value."""

    compute: Callable[[NDArray, float, float], NDArray]
    alpha: float | None = None
    beta: float | None = None


class Activation(NamedTuple):
    """A function with its values, as a node asks for it."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    def __call__(self, x: NDArray) -> NDArray:
        return FUNCTIONS[self.name].compute(x, self.alpha, self.beta)


# Defaults are those of the ONNX operators of the same names. Affine and ScaledTanh are operators no longer; theirs are
# the values that change nothing.
FUNCTIONS = {
    "Relu": Function(lambda x, alpha, beta: np.maximum(x, 0)),
    "Tanh": Function(lambda x, alpha, beta: np.tanh(x)),
    "Sigmoid": Function(lambda x, alpha, beta: 1 / (1 + np.exp(-x))),
    "Affine": Function(lambda x, alpha, beta: alpha * x + beta, 1.0, 0.0),
    "LeakyRelu": Function(lambda x, alpha, beta: np.where(x < 0, alpha * x, x), 0.01),
    "ThresholdedRelu": Function(lambda x, alpha, beta: np.where(x < alpha, x.dtype.type(0), x), 1.0),
    "ScaledTanh": Function(lambda x, alpha, beta: alpha * np.tanh(beta * x), 1.0, 1.0),
    "HardSigmoid": Function(lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), 0.2, 0.5),
    "Elu": Function(lambda x, alpha, beta: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x), 1.0),
    "Softsign": Function(lambda x, alpha, beta: x / (1 + np.abs(x))),
    "Softplus": Function(lambda x, alpha, beta: np.logaddexp(x.dtype.type(0), x)),
}
