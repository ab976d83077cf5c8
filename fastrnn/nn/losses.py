"""Softmax, cross-entropy and mean squared error, with their gradients."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines, validate
from fastrnn.nn.checks import as_rows, floats, integers, same_shape, within
from fastrnn.nn.layers import Linear
from fastrnn.params import Gradients

__all__ = ["MeanSquaredError", "OutputLoss", "SoftmaxCrossEntropy", "log_softmax", "softmax"]


def softmax(logits: Any, axis: int = -1) -> NDArray:
    """Return exp(logits) over its sum along an axis, without overflow.

    Parameters
    ----------
    logits : array_like
        Numbers. A floating dtype is kept; integers become float64.
    axis : int, default -1
        The axis along which the results add up to 1.

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
    """Return the logarithm of `softmax`, also where the probability itself is too small for its dtype.

    Parameters and result are those of `softmax`.
    """
    y = _below_top(logits, axis)
    y -= np.log(np.exp(y).sum(axis=axis, keepdims=True))
    return y


class OutputLoss(NamedTuple):
    """The loss of what a part makes of its input.

    Attributes
    ----------
    value : float
        The mean over targets.
    targets : int
        How many targets count.
    grads : Gradients or None
        Of the part: in its input and its parameters; None if they were not wanted.
    """

    value: float
    targets: int
    grads: Gradients | None


class Criterion:
    """The base class of losses: what they do with a model's output part."""

    def forward(
        self, predictions: Any, targets: Any, *, weights: Any = None, per_target: bool = False
    ) -> tuple[float, Any]:
        """Return the loss and its tape."""
        raise NotImplementedError

    def backward(self, tape: Any, dy: float = 1.0) -> Gradients:
        """Return the gradient in the predictions."""
        raise NotImplementedError

    def of_output(
        self, output: Any, x: Any, targets: Any, *, weights: Any = None, per_target: bool = False, grads: bool = True,
        rng: Any = None,
    ) -> OutputLoss:  # fmt: skip
        """Return the loss of ``output(x)``, and its gradients.

        Parameters
        ----------
        output : Part
            From x to predictions. `SoftmaxCrossEntropy` of a `Linear` takes one pass, in which the logits are computed,
            used and forgotten in blocks.
        x : array_like
            What `output` reads.
        targets, weights, per_target
            As for `forward`.
        grads : bool, default True
            Whether gradients are wanted. If not, `output` computes as in inference.
        rng : seed or numpy.random.Generator, optional
            Source of random numbers of `output`, with `grads`.

        Returns
        -------
        OutputLoss

        Raises
        ------
        TypeError, ValueError, IndexError
            As `forward`, and as `output` raises them.
        """
        if not grads:
            loss, tape = self.forward(output(x), targets, weights=weights, per_target=per_target)
            return OutputLoss(loss, tape.count, None)
        predictions, output_tape = output.forward(x, rng=rng)
        loss, tape = self.forward(predictions, targets, weights=weights, per_target=per_target)
        return OutputLoss(loss, tape.count, output.backward(output_tape, self.backward(tape).x))


@dataclass(frozen=True, slots=True)
class CrossEntropyTape:
    """What `SoftmaxCrossEntropy.backward` needs. N is the number of targets.

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
        (N,), the weight of each target's loss in the mean. They add up to 1, or all are 0, or `per_target` was given.
    count : int
        How many targets count.
    """

    shape: tuple[int, ...]
    exps: NDArray
    sums: NDArray
    targets: NDArray
    shares: NDArray
    count: int


class SoftmaxCrossEntropy(Criterion):
    """The mean over targets of -log softmax(logits)[target], in nats. It includes softmax and its gradient.

    Parameters
    ----------
    ignore_index : int, default -100
        Targets of this value do not count.
    """

    def __init__(self, ignore_index: int = -100) -> None:
        self.ignore_index = operator.index(ignore_index)

    def __call__(self, logits: Any, targets: Any, *, weights: Any = None, per_target: bool = False) -> float:
        """Return the loss and keep nothing. As `forward`, without the tape."""
        return self.forward(logits, targets, weights=weights, per_target=per_target)[0]

    def forward(
        self, logits: Any, targets: Any, *, weights: Any = None, per_target: bool = False
    ) -> tuple[float, CrossEntropyTape]:
        """Compute the loss.

        Parameters
        ----------
        logits : array_like
            (..., V), float32 or float64.
        targets : array_like of int
            (...), each in 0..V-1 or `ignore_index`.
        weights : array_like, optional
            The weight of each target, broadcast to (...); 0 for padding, not negative. Default: all are equal.
        per_target : bool, default False
            Whether the sum of weighted losses is divided by the number of targets that count, instead of by the sum of
            weights. Then batches of heavy targets weigh more than batches of light ones.

        Returns
        -------
        loss : float
            sum(weights * losses) / sum(weights). If the sum of weights is 0, the loss and its gradients are 0. A target
            of weight 0 has no effect even if its logits are not finite.
        tape : CrossEntropyTape
            What `backward` needs. It shares no memory with the caller.

        Raises
        ------
        TypeError
            If an argument has a wrong dtype.
        ValueError
            If shapes do not fit, or a weight is negative or not finite.
        IndexError
            If a target is neither in 0..V-1 nor `ignore_index`.
        """
        logits = floats("logits", logits)
        if logits.ndim == 0 or logits.shape[-1] == 0:
            raise ValueError(f"logits: expected (..., V) with V >= 1, got {logits.shape}")
        targets, shares = self._shared(targets, weights, per_target, logits.shape)
        rows = as_rows(logits)
        top = rows.max(axis=1)
        exps = rows - top[:, None]
        np.exp(exps, out=exps)
        sums = exps.sum(axis=1)
        # -log softmax = log(sum) - (logit - top). In float64, so that the mean has the full precision of float32.
        losses = np.log(sums, dtype=np.float64)
        losses -= np.subtract(rows[np.arange(targets.size), targets], top, dtype=np.float64)
        counts = shares > 0
        loss = float((losses[counts] * shares[counts]).sum())
        return loss, CrossEntropyTape(logits.shape, exps, sums, targets, shares, int(counts.sum()))

    def of_output(
        self, output: Any, x: Any, targets: Any, *, weights: Any = None, per_target: bool = False, grads: bool = True,
        rng: Any = None,
    ) -> OutputLoss:  # fmt: skip
        """See `Criterion.of_output`."""
        if type(output) is not Linear:
            return super().of_output(output, x, targets, weights=weights, per_target=per_target, grads=grads, rng=rng)
        x, weight, bias = output.checked(x)
        targets, shares = self._shared(targets, weights, per_target, (*x.shape[:-1], output.out_features))
        losses, found = engines.current().operations.cross_entropy(as_rows(x), weight, bias, targets, shares, grads)
        counts = shares > 0
        loss = float((losses[counts] * shares[counts]).sum())
        return OutputLoss(loss, int(counts.sum()), None if found is None else output.gradients(found, x.shape))

    def _shared(
        self, targets: Any, weights: Any, per_target: bool, shape: tuple[int, ...]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return targets, and the share of each in the mean, (N,), for logits of `shape`; both 0 where ignored."""
        targets = integers("targets", targets)
        same_shape("targets", targets, shape[:-1])
        shares = _loss_weights(weights, targets.shape)
        ignored = targets == self.ignore_index
        targets = np.where(ignored, 0, targets).reshape(-1).astype(np.int64, copy=False)
        shares = np.where(ignored, 0.0, shares).reshape(-1)
        within("targets", targets, shape[-1])
        shares /= _divisor(shares, per_target)
        return targets, shares

    def backward(self, tape: CrossEntropyTape, dy: float = 1.0) -> Gradients:
        """Differentiate `forward`: a row's gradient is (softmax - one_hot(target)) times its share of the mean. Pure.

        Parameters
        ----------
        tape : CrossEntropyTape
            From `forward`.
        dy : float, default 1.0
            The gradient of the loss.

        Returns
        -------
        Gradients
            `x`, of the logits; no `params`.
        """
        shares = tape.shares * float(dy)
        dx = tape.exps * (shares / tape.sums).astype(tape.exps.dtype)[:, None]
        dx[np.arange(tape.targets.size), tape.targets] -= shares
        silent = tape.shares == 0
        if silent.any():
            dx[silent] = 0  # set, because exps may be NaN there
        return Gradients(dx.reshape(tape.shape), None, {})


@dataclass(frozen=True, slots=True)
class SquaredErrorTape:
    """What `MeanSquaredError.backward` needs.

    Attributes
    ----------
    gradient : ndarray
        The loss's gradient of the predictions.
    count : int
        How many targets count.
    """

    gradient: NDArray
    count: int


class MeanSquaredError(Criterion):
    """The mean over targets of (prediction - target)^2. A target that is NaN is unknown and does not count."""

    def __call__(self, predictions: Any, targets: Any, *, weights: Any = None, per_target: bool = False) -> float:
        """Return the loss and keep nothing. As `forward`, without the tape."""
        return self.forward(predictions, targets, weights=weights, per_target=per_target)[0]

    def forward(
        self, predictions: Any, targets: Any, *, weights: Any = None, per_target: bool = False
    ) -> tuple[float, SquaredErrorTape]:
        """Compute the loss.

        Parameters
        ----------
        predictions : array_like
            (...), float32 or float64.
        targets : array_like
            (...), of the predictions' dtype. NaN does not count.
        weights : array_like, optional
            The weight of each target, broadcast to (...); 0 for padding, not negative. Default: all are equal.
        per_target : bool, default False
            Whether the sum of weighted losses is divided by the number of targets that count, instead of by the sum of
            weights. Then batches of heavy targets weigh more than batches of light ones.

        Returns
        -------
        loss : float
            sum(weights * squares) / sum(weights); 0.0 if the sum of weights is 0.
        tape : SquaredErrorTape
            What `backward` needs.

        Raises
        ------
        TypeError
            If an argument has a wrong dtype.
        ValueError
            If shapes do not fit, or a weight is negative or not finite.
        """
        predictions = floats("predictions", predictions)
        targets = validate.array("targets", targets, predictions.dtype)
        same_shape("targets", targets, predictions.shape)
        shares = _loss_weights(weights, targets.shape)
        shares = np.where(np.isnan(targets), 0.0, shares)
        shares /= _divisor(shares, per_target)
        counts = shares > 0
        # Values that do not count may be NaN or infinite.
        errors = np.where(counts, predictions - np.where(counts, targets, 0), 0)
        gradient = (2 * shares * errors).astype(predictions.dtype)
        loss = float((shares * np.square(errors, dtype=np.float64)).sum())
        return loss, SquaredErrorTape(gradient, int(counts.sum()))

    def backward(self, tape: SquaredErrorTape, dy: float = 1.0) -> Gradients:
        """Differentiate `forward`: 2 (prediction - target) times the target's share of the mean. Pure.

        Parameters
        ----------
        tape : SquaredErrorTape
            From `forward`.
        dy : float, default 1.0
            The gradient of the loss.

        Returns
        -------
        Gradients
            `x`, of the predictions; no `params`.
        """
        return Gradients(tape.gradient * tape.gradient.dtype.type(dy), None, {})


def _below_top(logits: Any, axis: int) -> NDArray:
    a = validate.as_ndarray("logits", logits)
    if not -a.ndim <= validate.integer("axis", axis) < a.ndim:
        raise ValueError(f"axis: expected one of an array of shape {a.shape}, got {axis}")
    if a.dtype.kind != "f":
        a = a.astype(np.float64, casting="safe")
    y: NDArray = a - a.max(axis=axis, keepdims=True, initial=-np.inf)
    return y


def _divisor(shares: NDArray[np.float64], per_target: bool) -> float:
    return float((shares > 0).sum() if validate.flag("per_target", per_target) else shares.sum()) or 1.0


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
