"""The layers around a recurrent layer: embedding, linear, and softmax cross-entropy, with their gradients.

They follow the recurrent layers' habits: `forward` returns what `backward` needs as a tape, `backward` is a pure
function of that tape, parameters are plain arrays in `params`, and inputs are never modified.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastrnn import validate
from fastrnn.params import copy_in

__all__ = [
    "Embedding",
    "Grads",
    "HasParams",
    "Linear",
    "SoftmaxCrossEntropy",
    "load_parameters",
    "log_softmax",
    "parameters",
    "softmax",
]


@dataclass(frozen=True, slots=True)
class Grads:
    """Gradients of the loss.

    Attributes
    ----------
    x : ndarray or None
        In the input; its shape. None where the input is not differentiable (an embedding's ids).
    params : dict of str to ndarray
        In each parameter, under the parameter's name.
    """

    x: NDArray | None
    params: dict[str, NDArray]


class HasParams(Protocol):
    """Anything with named arrays: a layer, recurrent or not, or the gradients of one."""

    @property
    def params(self) -> dict[str, NDArray]: ...


class _Layer:
    """Parameters by name, checked when used, and their way in and out."""

    def __init__(self, dtype: DTypeLike, shapes: dict[str, tuple[int, ...]]) -> None:
        self.dtype = validate.dtype(dtype)
        self._shapes = shapes
        self.params: dict[str, NDArray] = {}

    def state_dict(self) -> dict[str, NDArray]:
        """Return copies of the parameters."""
        return {name: value.copy() for name, value in self.params.items()}

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Copy parameters in, all of them or, on an error, none.

        Parameters
        ----------
        mapping : mapping of str to array_like
            Exactly this layer's names, each of the parameter's shape and the layer's dtype.

        Raises
        ------
        TypeError, ValueError
            If a name is missing or unknown, or an array has a wrong shape or dtype.
        """
        copy_in(self.params, mapping)

    def _param(self, name: str) -> NDArray:
        return validate.parameter(name, self.params[name], self._shapes[name], self.dtype)


@dataclass(frozen=True, slots=True)
class EmbeddingTape:
    """What `Embedding.backward` needs: a copy of the ids."""

    ids: NDArray


class Embedding(_Layer):
    """A table of vectors, one for each id.

    Parameters
    ----------
    num_embeddings : int
        V, the number of ids.
    embedding_dim : int
        E, the length of each vector.
    dtype : float32 or float64, default float32
        Of parameters and outputs.
    rng : seed or numpy.random.Generator, optional
        Source of the initial parameters, normal(0, 1) as in PyTorch.

    Attributes
    ----------
    params : dict of str to ndarray
        weight (V, E).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, dtype: DTypeLike = np.float32, rng: Any = None
    ) -> None:
        self.num_embeddings = validate.size("num_embeddings", num_embeddings)
        self.embedding_dim = validate.size("embedding_dim", embedding_dim)
        shape = (self.num_embeddings, self.embedding_dim)
        super().__init__(dtype, {"weight": shape})
        self.params["weight"] = np.random.default_rng(rng).standard_normal(shape, self.dtype.type)

    def __call__(self, ids: Any) -> NDArray:
        """Look up the vectors and keep nothing: inference. As `forward`, without the tape."""
        return self.forward(ids)[0]

    def forward(self, ids: Any) -> tuple[NDArray, EmbeddingTape]:
        """Look up the vectors of ids.

        Parameters
        ----------
        ids : array_like of int
            (...), each in 0..V-1; negative ids do not count from the end.

        Returns
        -------
        y : ndarray
            (..., E).
        tape : EmbeddingTape
            What `backward` needs.

        Raises
        ------
        TypeError
            If `ids` are not integers.
        IndexError
            If an id is outside 0..V-1.
        """
        ids = _integers("ids", ids)
        _check_range("ids", ids, self.num_embeddings)
        return self._param("weight").take(ids, axis=0), EmbeddingTape(ids.copy())

    def backward(self, tape: EmbeddingTape, dy: Any) -> Grads:
        """Differentiate `forward`. Pure; an id's rows are added in the order of the ids, the same in every run.

        Parameters
        ----------
        tape : EmbeddingTape
            From `forward`.
        dy : array_like
            (..., E), gradient of the loss in y.

        Returns
        -------
        Grads
            `params`; `x` is None.

        Raises
        ------
        TypeError, ValueError
            If `dy` has a wrong dtype or shape.
        """
        dy = validate.array("dy", dy, self.dtype)
        _check_shape("dy", dy, (*tape.ids.shape, self.embedding_dim))
        # one_hot(ids).T @ dy as a sparse product: 2 to 40 times as fast as np.add.at, and ahead of sorting with
        # np.add.reduceat and of a dense product at every size measured (V from 65 to 50,000, E from 32 to 512).
        from scipy.sparse import csc_array  # here, since it takes a fifth of the package's import time

        n = tape.ids.size
        shape = (self.num_embeddings, n)
        one_hot = csc_array((np.ones(n, self.dtype), tape.ids.reshape(-1), np.arange(n + 1)), shape=shape)
        return Grads(None, {"weight": one_hot @ dy.reshape(n, self.embedding_dim)})


@dataclass(frozen=True, slots=True)
class LinearTape:
    """What `Linear.backward` needs. It shares x and the weight: do not change them in place before `backward`."""

    x: NDArray
    weight: NDArray


class Linear(_Layer):
    """An affine map of the last axis: y = x W^T + b.

    Parameters
    ----------
    in_features, out_features : int
        I and O, the length of the last axis before and after.
    bias : bool, default True
        Whether there is b.
    dtype : float32 or float64, default float32
        Of parameters, inputs and outputs.
    rng : seed or numpy.random.Generator, optional
        Source of the initial parameters, uniform in +-1/sqrt(I) as in PyTorch.

    Attributes
    ----------
    params : dict of str to ndarray
        weight (O, I) and, with `bias`, bias (O,).

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: DTypeLike = np.float32, rng: Any = None
    ) -> None:
        self.in_features = validate.size("in_features", in_features)
        self.out_features = validate.size("out_features", out_features)
        self.bias = validate.flag("bias", bias)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        if self.bias:
            shapes["bias"] = (self.out_features,)
        super().__init__(dtype, shapes)
        generator = np.random.default_rng(rng)
        bound = 1 / np.sqrt(self.in_features)
        for name, shape in shapes.items():
            self.params[name] = generator.uniform(-bound, bound, shape).astype(self.dtype)

    def __call__(self, x: Any) -> NDArray:
        """Map x and keep nothing: inference. As `forward`, without the tape."""
        return self.forward(x)[0]

    def forward(self, x: Any) -> tuple[NDArray, LinearTape]:
        """Map x.

        Parameters
        ----------
        x : array_like
            (..., I), of the layer's dtype.

        Returns
        -------
        y : ndarray
            (..., O).
        tape : LinearTape
            What `backward` needs.

        Raises
        ------
        TypeError, ValueError
            If `x` has a wrong dtype or shape.
        """
        x = validate.array("x", x, self.dtype)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x: expected (..., {self.in_features}), got {x.shape}")
        weight = self._param("weight")
        # One product for all rows; NumPy's matmul of a 3-D array is a small one for each index of its first axis.
        y = _rows(x) @ weight.T
        if self.bias:
            y += self._param("bias")
        return y.reshape(*x.shape[:-1], self.out_features), LinearTape(x, weight)

    def backward(self, tape: LinearTape, dy: Any) -> Grads:
        """Differentiate `forward`: dx = dy W, dW = dy^T x, db = dy summed over all rows. Pure.

        Parameters
        ----------
        tape : LinearTape
            From `forward`.
        dy : array_like
            (..., O), gradient of the loss in y.

        Returns
        -------
        Grads
            `x` and `params`.

        Raises
        ------
        TypeError, ValueError
            If `dy` has a wrong dtype or shape.
        """
        dy = validate.array("dy", dy, self.dtype)
        _check_shape("dy", dy, (*tape.x.shape[:-1], self.out_features))
        dy_rows = _rows(dy)
        params = {"weight": dy_rows.T @ _rows(tape.x)}
        if self.bias:
            params["bias"] = dy_rows.sum(axis=0)
        return Grads((dy_rows @ tape.weight).reshape(tape.x.shape), params)


def softmax(logits: Any, axis: int = -1) -> NDArray:
    """Return exp(logits) over its sum along an axis, without overflow.

    Parameters
    ----------
    logits : array_like
        Numbers; a floating dtype is kept, integers become float64.
    axis : int, default -1
        The axis along which results add up to 1.

    Returns
    -------
    ndarray
        The shape of `logits`.
    """
    y = _below_top(logits, axis)
    np.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


def log_softmax(logits: Any, axis: int = -1) -> NDArray:
    """Return the logarithm of `softmax`, exact where the probability is too small for its dtype.

    Parameters and result are those of `softmax`.
    """
    y = _below_top(logits, axis)
    y -= np.log(np.exp(y).sum(axis=axis, keepdims=True))
    return y


@dataclass(frozen=True, slots=True)
class CrossEntropyTape:
    """What `SoftmaxCrossEntropy.backward` needs; N targets in all.

    Attributes
    ----------
    shape : tuple of int
        Of the logits, (..., V).
    exps : ndarray
        (N, V), exp(logits - the row's maximum).
    sums : ndarray
        (N,), the rows' sums of exps.
    targets : ndarray
        (N,), 0 where a target is ignored.
    shares : ndarray
        (N,), how much each target's loss counts in the mean: together 1, or all 0.
    """

    shape: tuple[int, ...]
    exps: NDArray
    sums: NDArray
    targets: NDArray
    shares: NDArray


class SoftmaxCrossEntropy:
    """The mean over targets of -log softmax(logits)[target], in nats; softmax and its gradient are fused into it.

    Parameters
    ----------
    ignore_index : int, default -100
        Targets of this value do not count.
    """

    def __init__(self, ignore_index: int = -100) -> None:
        self.ignore_index = operator.index(ignore_index)

    def __call__(self, logits: Any, targets: Any, *, weights: Any = None) -> float:
        """Return the loss and keep nothing. As `forward`, without the tape."""
        return self.forward(logits, targets, weights=weights)[0]

    def forward(self, logits: Any, targets: Any, *, weights: Any = None) -> tuple[float, CrossEntropyTape]:
        """Compute the loss.

        Parameters
        ----------
        logits : array_like
            (..., V), float32 or float64.
        targets : array_like of int
            (...), each in 0..V-1 or `ignore_index`.
        weights : array_like, optional
            Broadcasts to (...): how much each target counts, 0 for padding. Not negative. Default: all the same.

        Returns
        -------
        loss : float
            sum(weights * losses) / sum(weights). Where the weights' total is 0 there is nothing to learn from: the
            loss is 0.0 and so are its gradients. A target of weight 0 counts for nothing even if its logits are not
            finite.
        tape : CrossEntropyTape
            What `backward` needs. It shares nothing with the caller.

        Raises
        ------
        TypeError
            If an argument has a wrong dtype.
        ValueError
            If shapes do not fit, or a weight is negative or not finite.
        IndexError
            If a target is neither in 0..V-1 nor `ignore_index`.
        """
        logits = validate.as_ndarray("logits", logits)
        if logits.dtype not in validate.DTYPES:
            raise TypeError(f"logits: expected float32 or float64, got {logits.dtype}; convert it with logits.astype()")
        if logits.ndim == 0 or logits.shape[-1] == 0:
            raise ValueError(f"logits: expected (..., V) with V >= 1, got {logits.shape}")
        targets = _integers("targets", targets)
        _check_shape("targets", targets, logits.shape[:-1])
        shares = _loss_weights(weights, targets.shape)
        ignored = targets == self.ignore_index
        targets = np.where(ignored, 0, targets).reshape(-1)
        shares = np.where(ignored, 0.0, shares).reshape(-1)
        _check_range("targets", targets, logits.shape[-1])

        shares /= shares.sum() or 1.0
        rows = _rows(logits)
        top = rows.max(axis=1)
        exps = rows - top[:, None]
        np.exp(exps, out=exps)
        sums = exps.sum(axis=1)
        # -log softmax = log(sum) - (logit - top). These are few: in float64 the mean is exact to a float32's precision.
        losses = np.log(sums, dtype=np.float64)
        losses -= np.subtract(rows[np.arange(targets.size), targets], top, dtype=np.float64)
        counts = shares > 0
        loss = float(losses[counts] @ shares[counts])
        return loss, CrossEntropyTape(logits.shape, exps, sums, targets, shares)

    def backward(self, tape: CrossEntropyTape, dy: float = 1.0) -> Grads:
        """Differentiate `forward`: a row's gradient is (softmax - one_hot(target)) times its share of the mean. Pure.

        Parameters
        ----------
        tape : CrossEntropyTape
            From `forward`.
        dy : float, default 1.0
            Gradient in the loss.

        Returns
        -------
        Grads
            `x`, in the logits; no `params`.
        """
        shares = tape.shares * float(dy)
        dx = tape.exps * (shares / tape.sums).astype(tape.exps.dtype)[:, None]
        dx[np.arange(tape.targets.size), tape.targets] -= shares
        silent = tape.shares == 0
        if silent.any():
            dx[silent] = 0  # not only small: exps may be NaN there
        return Grads(dx.reshape(tape.shape), {})


def parameters(parts: Mapping[str, HasParams]) -> dict[str, NDArray]:
    """Join the parameters of several layers, or their gradients, into one dict.

    Parameters
    ----------
    parts : mapping of str to layer or gradients
        Anything with `params`.

    Returns
    -------
    dict of str to ndarray
        The arrays themselves, not copies, under "part.name".

    Examples
    --------
    >>> parts = {"embedding": Embedding(65, 32), "output": Linear(32, 65)}
    >>> list(parameters(parts))
    ['embedding.weight', 'output.weight', 'output.bias']
    """
    return {f"{part}.{name}": value for part, layer in parts.items() for name, value in layer.params.items()}


def load_parameters(parts: Mapping[str, HasParams], mapping: Mapping[str, Any]) -> None:
    """Copy parameters into several layers, all of them or, on an error, none.

    Parameters
    ----------
    parts : mapping of str to layer
        Anything with `params`.
    mapping : mapping of str to array_like
        Exactly the names that `parameters` gives, each of the parameter's shape and dtype.

    Raises
    ------
    TypeError, ValueError
        If a name is missing or unknown, or an array has a wrong shape or dtype.
    """
    copy_in(parameters(parts), mapping)


def _rows(a: NDArray) -> NDArray:
    """All axes but the last as one; not reshape(-1, ...), which cannot tell the number of rows of an empty array."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def _below_top(logits: Any, axis: int) -> NDArray:
    a = np.asarray(logits)
    if a.dtype.kind != "f":
        a = a.astype(np.float64, casting="safe")
    y: NDArray = a - a.max(axis=axis, keepdims=True, initial=-np.inf)
    return y


def _loss_weights(weights: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(shape)
    given = validate.as_ndarray("weights", weights)
    if given.dtype.kind not in "buif":
        raise TypeError(f"weights: expected numbers, got {given.dtype}")
    try:
        wide = np.broadcast_to(given, shape).astype(np.float64)
    except ValueError:
        raise ValueError(f"weights: expected a shape that broadcasts to {shape}, got {given.shape}") from None
    good = (wide >= 0) & (wide < np.inf)
    if not good.all():
        raise ValueError(f"weights: expected finite numbers of at least 0, got {wide[~good][0]}")
    return wide


def _integers(name: str, value: Any) -> NDArray:
    a = validate.as_ndarray(name, value)
    if a.dtype.kind not in "iu" and a.size:  # an empty list is an array of floats, and fine
        raise TypeError(f"{name}: expected integers, got {a.dtype}")
    return a.astype(np.intp, copy=False)


def _check_range(name: str, value: NDArray, end: int) -> None:
    if value.size and (value.min() < 0 or value.max() >= end):
        worst = value.min() if value.min() < 0 else value.max()
        raise IndexError(f"{name}: expected integers in 0..{end - 1}, got {worst}")


def _check_shape(name: str, value: NDArray, expected: tuple[int, ...]) -> None:
    if value.shape != expected:
        raise ValueError(f"{name}: expected {expected}, got {value.shape}")
