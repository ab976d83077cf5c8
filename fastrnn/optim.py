"""Optimisers over dicts of NumPy arrays: SGD, Adam and AdamW; schedules of learning rates; clipping of gradients.

An optimiser keeps the arrays that it is given and updates them in place. Its state and one small scratch array are
allocated when it is made; a step allocates no arrays. A step goes through each parameter in blocks that stay in cache,
so that its dozen NumPy operations read and write memory only once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "Schedule",
    "clip_grad_norm",
    "constant",
    "step_decay",
    "warmup_cosine",
    "warmup_linear",
]

# From the share of the training that is done, 0 to 1, to the factor of the highest learning rate.
Schedule = Callable[[float], float]

# Elements in a block of an update. Blocks of a parameter, its gradient, two moments and the scratch array take 640 KiB
# in float32 and stay in L2. With a quarter of this size, a step takes a third longer because of NumPy's calls; with
# whole arrays, half as long again because of memory.
BLOCK = 1 << 15

# Elements in a block of a norm. OpenBLAS uses threads for dot products above 10,000, and their number changes the sum.
NORM_BLOCK = 1 << 13


class Optimizer:
    """The base class of optimisers: checks, blocks and state. `_moments` names a parameter's arrays of state."""

    _moments: tuple[str, ...] = ()

    def __init__(self, params: Mapping[str, NDArray], lr: float) -> None:
        if not isinstance(params, Mapping):
            raise TypeError(f"params: expected names and arrays, got {type(params).__name__}")
        if not params:
            raise ValueError("params: expected at least one array, got none")
        for name, p in params.items():
            if not isinstance(p, np.ndarray) or p.dtype not in validate.DTYPES:
                kind = p.dtype if isinstance(p, np.ndarray) else type(p).__name__
                raise TypeError(f"params[{name!r}]: expected a NumPy array of float32 or float64, got {kind}")
            if not (p.flags.c_contiguous and p.flags.writeable):
                raise ValueError(f"params[{name!r}]: expected a C-contiguous, writeable array")
        self.lr = validate.at_least_zero("lr", lr)
        self._params = dict(params)
        self._flat = {name: p.reshape(-1) for name, p in self._params.items()}
        self._state = {moment: {name: np.zeros_like(p) for name, p in self._flat.items()} for moment in self._moments}
        self._scratch = {dtype: np.empty(BLOCK, dtype) for dtype in {p.dtype for p in params.values()}}
        self._steps = 0

    def step(self, grads: Mapping[str, NDArray]) -> None:
        """Update the parameters in place. `grads` is not changed.

        Parameters
        ----------
        grads : mapping of str to ndarray
            A gradient for each parameter, under its name, of its shape and dtype.

        Raises
        ------
        TypeError, ValueError
            If a name is missing or unknown, or a gradient has a wrong dtype or shape. Nothing is updated then.
        """
        checked = _checked(grads, self._params, "grads")
        self._steps += 1
        for name, p in self._flat.items():
            g = checked[name].reshape(-1)
            state = [self._state[moment][name] for moment in self._moments]
            scratch = self._scratch[p.dtype]
            for start in range(0, p.size, BLOCK):
                block = slice(start, start + BLOCK)
                part = p[block]
                self._update(part, g[block], [s[block] for s in state], scratch[: part.size])

    def _update(self, p: NDArray, g: NDArray, state: list[NDArray], scratch: NDArray) -> None:
        """Update one block of one parameter. `g` must not be changed; `scratch` may be."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, NDArray]:
        """Return copies of all state: "step" and "lr" (0-d), and the moments under "moment.parameter"."""
        state = {"step": np.array(self._steps), "lr": np.array(float(self.lr))}
        for moment, arrays in self._state.items():
            for name, value in arrays.items():
                state[f"{moment}.{name}"] = value.reshape(self._params[name].shape).copy()
        return state

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Load the state of an optimiser of the same kind, whose parameters had the same names and shapes.

        Parameters
        ----------
        mapping : mapping of str to array_like
            From `state_dict`. It sets lr; other hyperparameters stay as given to the constructor.

        Raises
        ------
        TypeError, ValueError
            If a name is missing or unknown, or an array has a wrong dtype or shape. Nothing is changed then.
        """
        checked = _checked(mapping, self.state_dict(), "mapping")
        self._steps, self.lr = int(checked["step"]), float(checked["lr"])
        for moment, arrays in self._state.items():
            for name, value in arrays.items():
                value[...] = checked[f"{moment}.{name}"].reshape(-1)


class SGD(Optimizer):
    """Stochastic gradient descent: p -= lr*g, with momentum p -= lr*b where b = momentum*b + g.

    The same steps as torch.optim.SGD without dampening.

    Parameters
    ----------
    params : mapping of str to ndarray
        C-contiguous float32 or float64 arrays, updated in place by `step`.
    lr : float
        Learning rate; the attribute `lr` may be set between steps.
    momentum : float, default 0.0
        The factor of the b of the step before.
    nesterov : bool, default False
        Step along g + momentum*b instead of b.
    weight_decay : float, default 0.0
        Adds weight_decay*p to g.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.
    """

    def __init__(
        self, params: Mapping[str, NDArray], lr: float, momentum: float = 0.0, nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        self.momentum = validate.at_least_zero("momentum", momentum)
        self.nesterov = validate.flag("nesterov", nesterov)
        self.weight_decay = validate.at_least_zero("weight_decay", weight_decay)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: expected a momentum above 0 with it, got 0")
        self._moments = ("momentum",) if self.momentum else ()
        super().__init__(params, lr)

    def _update(self, p: NDArray, g: NDArray, state: list[NDArray], scratch: NDArray) -> None:
        if self.weight_decay:
            np.multiply(p, self.weight_decay, out=scratch)
            scratch += g
            g = scratch
        if self.momentum:
            (b,) = state
            b *= self.momentum
            b += g
            if self.nesterov:
                # p -= lr*(g + momentum*b) in two parts, because g may be in scratch, so there is no array for the sum.
                np.multiply(g, float(self.lr), out=scratch)
                p -= scratch
                np.multiply(b, float(self.lr) * self.momentum, out=scratch)
                p -= scratch
                return
            g = b
        np.multiply(g, float(self.lr), out=scratch)
        p -= scratch


class Adam(Optimizer):
    """Adam: m and v are running means of g and g^2; p -= lr * m_hat / (sqrt(v_hat) + eps).

    m_hat = m/(1 - beta1^t) and v_hat = v/(1 - beta2^t) undo the bias of starting from zero. The same steps as
    torch.optim.Adam.

    Parameters
    ----------
    params : mapping of str to ndarray
        C-contiguous float32 or float64 arrays, updated in place by `step`.
    lr : float, default 1e-3
        Learning rate; the attribute `lr` may be set between steps.
    betas : pair of float, default (0.9, 0.999)
        The factors of the m and v of the step before, each in [0, 1).
    eps : float, default 1e-8
        Added to the denominator, so that the quotient stays finite.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980 (2014).
    """

    _moments = ("m", "v")

    def __init__(
        self, params: Mapping[str, NDArray], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:  # fmt: skip
        beta1, beta2 = betas
        self.betas = (validate.probability("betas[0]", beta1), validate.probability("betas[1]", beta2))
        self.eps = validate.at_least_zero("eps", eps)
        super().__init__(params, lr)

    def _update(self, p: NDArray, g: NDArray, state: list[NDArray], scratch: NDArray) -> None:
        m, v = state
        beta1, beta2 = self.betas
        np.multiply(g, 1 - beta1, out=scratch)
        m *= beta1
        m += scratch
        np.multiply(g, g, out=scratch)
        scratch *= 1 - beta2
        v *= beta2
        v += scratch
        # lr*m_hat / (sqrt(v_hat) + eps), with numerator and denominator multiplied by sqrt(1 - beta2^t).
        root = math.sqrt(1 - beta2**self._steps)
        np.sqrt(v, out=scratch)
        scratch += self.eps * root
        np.divide(m, scratch, out=scratch)
        scratch *= float(self.lr) * root / (1 - beta1**self._steps)
        p -= scratch


class AdamW(Adam):
    """Adam with decoupled weight decay: p -= lr*weight_decay*p, then the step of `Adam`.

    The same steps as torch.optim.AdamW.

    Parameters
    ----------
    params, lr, betas, eps
        As for `Adam`.
    weight_decay : float, default 0.01
        A step subtracts lr*weight_decay*p.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    References
    ----------
    I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101 (2017).
    """

    def __init__(
        self, params: Mapping[str, NDArray], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.01,
    ) -> None:  # fmt: skip
        self.weight_decay = validate.at_least_zero("weight_decay", weight_decay)
        super().__init__(params, lr, betas, eps)

    def _update(self, p: NDArray, g: NDArray, state: list[NDArray], scratch: NDArray) -> None:
        p *= 1 - float(self.lr) * self.weight_decay
        super()._update(p, g, state, scratch)


def constant(warm_up: float = 0.0) -> Schedule:
    """Return a schedule that rises linearly over the share `warm_up` of the training, and then stays."""
    return _warmed(warm_up, lambda rest: 1.0)


def warmup_linear(warm_up: float = 0.02, final: float = 0.0) -> Schedule:
    """Return a schedule that rises linearly over the share `warm_up`, then falls linearly to `final`."""
    return _warmed(warm_up, lambda rest: 1 + (final - 1) * rest)


def warmup_cosine(warm_up: float = 0.02, final: float = 0.01) -> Schedule:
    """Return a schedule that rises linearly over the share `warm_up`, then falls along half a cosine to `final`.

    References
    ----------
    I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", arXiv:1608.03983 (2016).
    """
    return _warmed(warm_up, lambda rest: final + (1 - final) * (1 + math.cos(math.pi * rest)) / 2)


def step_decay(places: Sequence[float] = (0.5, 0.75), factor: float = 0.1, warm_up: float = 0.0) -> Schedule:
    """Return a schedule multiplied by `factor` at each of the `places`, shares of the training after the warm-up."""
    return _warmed(warm_up, lambda rest: factor ** sum(rest >= place for place in places))


def _warmed(warm_up: float, after: Schedule) -> Schedule:
    """Return a schedule that rises linearly until `warm_up`, and is then `after` of the share of the rest."""
    warm_up = validate.probability("warm_up", warm_up)
    return lambda done: done / warm_up if done < warm_up else after((done - warm_up) / (1 - warm_up))


def clip_grad_norm(grads: Mapping[str, NDArray], max_norm: float) -> float:
    """Scale gradients in place, so that the norm of all of them together is at most `max_norm`.

    Parameters
    ----------
    grads : mapping of str to ndarray
        Changed in place: multiplied by max_norm / (norm + 1e-6) if that is less than 1, as in PyTorch.
    max_norm : float
        At least 0. Infinity: nothing is scaled.

    Returns
    -------
    float
        The norm of all gradients together before scaling, summed in float64. If it is not finite, the gradients are of
        no use afterwards, as in PyTorch: with an infinite norm, finite gradients become 0 and others NaN; with a NaN,
        all become NaN. Skip the step then: ``if math.isfinite(norm): optimizer.step(grads)``.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, or a gradient is read-only. Nothing is scaled then.
    """
    max_norm = validate.at_least_zero("max_norm", max_norm, infinite=True)
    if not isinstance(grads, Mapping):
        raise TypeError(f"grads: expected names and arrays, got {type(grads).__name__}")
    for name, g in grads.items():
        if not isinstance(g, np.ndarray) or g.dtype not in validate.DTYPES:
            kind = g.dtype if isinstance(g, np.ndarray) else type(g).__name__
            raise TypeError(f"grads[{name!r}]: expected a NumPy array of float32 or float64, got {kind}")
        if not g.flags.writeable:
            raise ValueError(f"grads[{name!r}]: expected a writeable array")
    scratch = np.empty(NORM_BLOCK)
    total = 0.0
    for g in grads.values():
        flat = g.reshape(-1)
        for start in range(0, flat.size, NORM_BLOCK):
            part = flat[start : start + NORM_BLOCK]
            wide = scratch[: part.size]
            wide[...] = part  # in float64, because the square of a float32 may overflow
            total += float(wide @ wide)
    norm = math.sqrt(total)
    scale = max_norm / (norm + 1e-6)
    if not scale >= 1:  # true for NaN as well
        for g in grads.values():
            g *= scale
    return norm


def _checked(mapping: Mapping[str, Any], like: Mapping[str, NDArray], argument: str) -> dict[str, NDArray]:
    """Return the arrays of `mapping` after checking that they have the names, shapes and dtypes of `like`."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{argument}: expected names and arrays, got {type(mapping).__name__}")
    if mapping.keys() != like.keys():
        missing, unknown = sorted(like.keys() - mapping.keys()), sorted(mapping.keys() - like.keys())
        raise ValueError(
            f"{argument}: expected one array for each of {', '.join(like)}; missing {missing}, unknown {unknown}"
        )
    checked = {}
    for name, value in like.items():
        array = validate.array(f"{argument}[{name!r}]", mapping[name], value.dtype)
        if array.shape != value.shape:
            raise ValueError(f"{argument}[{name!r}]: expected {value.shape}, got {array.shape}")
        checked[name] = array
    return checked
