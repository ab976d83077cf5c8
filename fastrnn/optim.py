"""Optimisers over dicts of NumPy arrays: SGD, Adam and AdamW; schedules of learning rates; clipping of gradients.

An optimiser keeps the arrays that it is given and updates them in place. Its state is allocated when it is made; a step
allocates no arrays. A step is one pass of C over all parameters, gradients and moments, on several threads if there are
enough of them; each value is computed by itself, so that bits do not depend on the threads. Values too small for a
normal number of their dtype (1e-38 in float32) count as 0.

A gradient is an array, or a `RowGradient` of a table of which only some rows were read. An array under two names, such
as a table that is also the weight of the output, is one parameter: its gradients are added.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines, validate
from fastrnn.engines.operations import Update
from fastrnn.params import RowGradient, added, names_of_arrays

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Averaged",
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


class Optimizer:
    """The base class of optimisers: checks, clipping and state.

    A subclass names a parameter's arrays of state in `_moments`, and defines `_update`.
    """

    _moments: tuple[str, ...] = ()

    def __init__(self, params: Mapping[str, NDArray], lr: float) -> None:
        if not validate.mapping("params", params):
            raise ValueError("params: expected at least one array, got none")
        for name, p in params.items():
            if not isinstance(p, np.ndarray) or p.dtype not in validate.DTYPES:
                kind = p.dtype if isinstance(p, np.ndarray) else type(p).__name__
                raise TypeError(f"params[{name!r}]: expected a NumPy array of float32 or float64, got {kind}")
            if not (p.flags.c_contiguous and p.flags.aligned and p.flags.writeable):
                raise ValueError(f"params[{name!r}]: expected a C-contiguous, aligned, writeable array")
        self.lr = validate.at_least_zero("lr", lr)
        self._given, self._names = dict(params), names_of_arrays(params)
        self._params = {first: params[first] for first, *_ in self._names}
        self._state = {m: {name: np.zeros_like(p) for name, p in self._params.items()} for m in self._moments}
        self._apart = _apart(list(self._params.values()))
        self._steps = 0

    def step(self, grads: Mapping[str, NDArray | RowGradient], max_norm: float | None = None) -> float | None:
        """Update the parameters in place. `grads` is not changed.

        Parameters
        ----------
        grads : mapping of str to ndarray or RowGradient
            A gradient for each parameter, under its name, of its shape and dtype.
        max_norm : float, optional
            Clip: the step is that of gradients times max_norm / (norm + 1e-6), if that is less than 1, as `step` after
            `clip_grad_norm`. If the norm is not finite, nothing is updated. Infinity: only that. Default: no norm is
            computed.

        Returns
        -------
        float or None
            The norm of all gradients together, as `clip_grad_norm` returns it; None without `max_norm`.

        Raises
        ------
        TypeError, ValueError
            If a name is missing or unknown, or a gradient has a wrong dtype or shape. Nothing is updated then.
        """
        checked = _checked(grads, self._given, "grads")
        checked = {names[0]: added([checked[name] for name in names]) for names in self._names}
        norm, scale = None, 1.0
        if max_norm is not None:
            max_norm = validate.at_least_zero("max_norm", max_norm, infinite=True)
            norm = _norm(checked.values())
            if not math.isfinite(norm):
                return norm
            scale = min(1.0, max_norm / (norm + 1e-6))
        updates = []
        for name, p in self._params.items():
            g, moments = checked[name], tuple(self._state[moment][name] for moment in self._moments)
            rows = isinstance(g, RowGradient)
            updates.append(Update(p, g.rows, moments, g.ids) if rows else Update(p, g, moments, None))
        self._steps += 1
        for together in [updates] if self._apart else [[update] for update in updates]:
            self._update(together, scale)
        return norm

    def _update(self, updates: list[Update], scale: float) -> None:
        """Update parameters, no two of which share memory, with gradients times `scale`."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, NDArray]:
        """Return copies of all state: "step" and "lr" (0-d), and the moments under "moment.parameter".

        The moments of an array that has two names are under the first.
        """
        state = {"step": np.array(self._steps), "lr": np.array(float(self.lr))}
        for moment, arrays in self._state.items():
            for name, value in arrays.items():
                state[f"{moment}.{name}"] = value.copy()
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
        steps = validate.size("mapping['step']", checked["step"], minimum=0)
        self._steps, self.lr = steps, validate.at_least_zero("mapping['lr']", checked["lr"])
        for moment, arrays in self._state.items():
            for name, value in arrays.items():
                value[...] = checked[f"{moment}.{name}"]


class SGD(Optimizer):
    """Stochastic gradient descent: p -= lr*g, with momentum p -= lr*b where b = momentum*b + g.

    The same steps as torch.optim.SGD without dampening. A `RowGradient` gives the same numbers as the dense gradient:
    only its rows are touched, unless momentum or weight decay moves the others, too.

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

    def _update(self, updates: list[Update], scale: float) -> None:
        if not self.momentum and not self.weight_decay:
            updates = [update._replace(only_rows=update.ids is not None) for update in updates]
        operations = engines.current().operations
        operations.sgd_step(updates, scale, float(self.lr), self.momentum, self.nesterov, self.weight_decay)


class Adam(Optimizer):
    """Adam: m and v are running means of g and g^2; p -= lr * m_hat / (sqrt(v_hat) + eps).

    m_hat = m/(1 - beta1^t) and v_hat = v/(1 - beta2^t) undo the bias of starting from zero. The same steps as
    torch.optim.Adam or, with `lazy`, for tables of which a batch reads some rows, as torch.optim.SparseAdam.

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
    lazy : bool, default False
        Of a `RowGradient`, update only its rows and their moments. This takes less time, but differs: by default, the
        moments of the other rows decay, and their parameters move on along m. As in SparseAdam, eps is added to
        sqrt(v) before the bias of v is undone. Gradients that are arrays are not concerned.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980 (2014).
    """

    weight_decay = 0.0  # AdamW's
    _moments = ("m", "v")

    def __init__(
        self, params: Mapping[str, NDArray], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, *, lazy: bool = False,
    ) -> None:  # fmt: skip
        beta1, beta2 = betas
        self.betas = (validate.probability("betas[0]", beta1), validate.probability("betas[1]", beta2))
        self.eps = validate.at_least_zero("eps", eps)
        self.lazy = validate.flag("lazy", lazy)
        super().__init__(params, lr)

    def _update(self, updates: list[Update], scale: float) -> None:
        beta1, beta2 = self.betas
        # lr*m_hat / (sqrt(v_hat) + eps), with numerator and denominator multiplied by sqrt(1 - beta2^t).
        root, lr = math.sqrt(1 - beta2**self._steps), float(self.lr)
        rate, keep = lr * root / (1 - beta1**self._steps), 1 - lr * self.weight_decay
        lazy = [update._replace(only_rows=True) for update in updates if self.lazy and update.ids is not None]
        others = [update for update in updates if not self.lazy or update.ids is None]
        for some, eps in ((others, self.eps * root), (lazy, self.eps)):
            if some:
                engines.current().operations.adam_step(some, scale, rate, beta1, beta2, eps, keep)


class AdamW(Adam):
    """Adam with decoupled weight decay: p -= lr*weight_decay*p, then the step of `Adam`.

    The same steps as torch.optim.AdamW.

    Parameters
    ----------
    params, lr, betas, eps, lazy
        As for `Adam`. With `lazy`, weight decay does not touch the other rows either.
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
        eps: float = 1e-8, weight_decay: float = 0.01, *, lazy: bool = False,
    ) -> None:  # fmt: skip
        self.weight_decay = validate.at_least_zero("weight_decay", weight_decay)
        super().__init__(params, lr, betas, eps, lazy=lazy)


class Averaged:
    """An optimiser, and running means of the parameters, which are better than the last ones where steps are noisy.

    After step t a mean m becomes m + (p - m)/min(t, 1/(1 - decay)): at first it is the mean over all steps, and later a
    moving average over about the last 1/(1 - decay). `fastrnn.train.Trainer` evaluates and keeps the means.

    Parameters
    ----------
    optimizer : Optimizer
        Takes the steps.
    decay : float, default 0.999
        At most 1. With 1 all steps count alike.

    Attributes
    ----------
    averages : dict of str to ndarray
        The means, under the names of the parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    References
    ----------
    B. T. Polyak, A. B. Juditsky, "Acceleration of stochastic approximation by averaging" (1992).
    """

    def __init__(self, optimizer: Optimizer, decay: float = 0.999) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: expected an Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.decay = validate.at_least_zero("decay", decay)
        if self.decay > 1:
            raise ValueError(f"decay: expected a number of at most 1, got {decay}")
        means = {name: p.copy() for name, p in optimizer._params.items()}
        self.averages = {name: means[names[0]] for names in optimizer._names for name in names}
        self._scratch = {p.dtype: np.empty(max(q.size for q in means.values()), p.dtype) for p in means.values()}

    @property
    def lr(self) -> float:
        """The learning rate; it may be set between steps."""
        return self.optimizer.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self.optimizer.lr = value

    def step(self, grads: Mapping[str, NDArray | RowGradient], max_norm: float | None = None) -> float | None:
        """Take a step of the optimiser, see `Optimizer.step`, and update the means."""
        norm = self.optimizer.step(grads, max_norm)
        share = max(1 - self.decay, 1 / max(1, self.optimizer._steps))
        if norm is None or math.isfinite(norm):
            for name, p in self.optimizer._params.items():
                mean = self.averages[name]
                change = self._scratch[p.dtype][: p.size].reshape(p.shape)
                np.subtract(p, mean, out=change)
                change *= share
                mean += change
        return norm

    def state_dict(self) -> dict[str, NDArray]:
        """Return copies of the optimiser's state, and of the means under "average.parameter"."""
        means = {f"average.{name}": self.averages[name].copy() for name in self.optimizer._params}
        return self.optimizer.state_dict() | means

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Load the state of an optimiser of the same kind; see `Optimizer.load_state_dict`."""
        checked = _checked(mapping, self.state_dict(), "mapping")
        own = {f"average.{name}" for name in self.optimizer._params}
        self.optimizer.load_state_dict({name: a for name, a in checked.items() if name not in own})
        for name in self.optimizer._params:
            self.averages[name][...] = checked[f"average.{name}"]


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


def clip_grad_norm(grads: Mapping[str, NDArray | RowGradient], max_norm: float) -> float:
    """Scale gradients in place, so that the norm of all of them together is at most `max_norm`.

    ``optimizer.step(grads, max_norm)`` takes the same step without writing the gradients.

    Parameters
    ----------
    grads : mapping of str to ndarray or RowGradient
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
    validate.mapping("grads", grads)
    arrays = {name: g.rows if isinstance(g, RowGradient) else g for name, g in grads.items()}
    for name, g in arrays.items():
        if not isinstance(g, np.ndarray) or g.dtype not in validate.DTYPES:
            kind = g.dtype if isinstance(g, np.ndarray) else type(g).__name__
            raise TypeError(f"grads[{name!r}]: expected a NumPy array of float32 or float64, got {kind}")
        if not g.flags.writeable:
            raise ValueError(f"grads[{name!r}]: expected a writeable array")
    norm = _norm(arrays.values())
    scale = max_norm / (norm + 1e-6)
    if not scale >= 1:  # true for NaN as well
        for g in arrays.values():
            g *= scale
    return norm


def _norm(grads: Iterable[NDArray | RowGradient]) -> float:
    """Return the norm of all gradients together."""
    arrays = [validate.contiguous(g.rows if isinstance(g, RowGradient) else g) for g in grads]
    return math.sqrt(engines.current().operations.squares(arrays))


def _apart(arrays: list[NDArray]) -> bool:
    """Return whether no two of these C-contiguous arrays share memory."""
    spans = sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays if a.size)
    return all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def _checked(mapping: Mapping[str, Any], like: Mapping[str, NDArray], argument: str) -> dict[str, Any]:
    """Return the arrays of `mapping` after checking that they have the names, shapes and dtypes of `like`."""
    validate.mapping(argument, mapping)
    if mapping.keys() != like.keys():
        missing, unknown = sorted(like.keys() - mapping.keys()), sorted(mapping.keys() - like.keys())
        raise ValueError(
            f"{argument}: expected one array for each of {', '.join(like)}; missing {missing}, unknown {unknown}"
        )
    checked: dict[str, Any] = {}
    for name, value in like.items():
        place, given = f"{argument}[{name!r}]", mapping[name]
        if isinstance(given, RowGradient):
            checked[name] = _checked_rows(place, given, value)
            continue
        array = validate.array(place, given, value.dtype)
        if array.shape != value.shape:
            raise ValueError(f"{place}: expected {value.shape}, got {array.shape}")
        checked[name] = validate.contiguous(array)
    return checked


def _checked_rows(place: str, given: RowGradient, like: NDArray) -> RowGradient:
    """Return a gradient of rows of `like`, as engines take it, after checking it."""
    if given.shape != like.shape or like.ndim != 2:
        raise ValueError(f"{place}: expected {like.shape}, got {given.shape}")
    rows, ids = validate.array(f"{place}.rows", given.rows, like.dtype), validate.as_ndarray(f"{place}.ids", given.ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{place}.ids: expected integers, got {ids.dtype}")
    if ids.ndim != 1 or rows.shape != (len(ids), like.shape[1]):
        raise ValueError(f"{place}: expected ids (N,) and rows (N, {like.shape[1]}), got {ids.shape} and {rows.shape}")
    if len(ids) and (ids[0] < 0 or ids[-1] >= len(like) or not (ids[1:] > ids[:-1]).all()):
        raise ValueError(f"{place}.ids: expected rising ids in 0..{len(like) - 1}, each once")
    return RowGradient(validate.contiguous(ids.astype(np.int64, copy=False)), validate.contiguous(rows), given.shape)
