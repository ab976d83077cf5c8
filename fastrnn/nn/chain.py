"""Models that are a chain: parts in a row, any of which may be recurrent, and a mask that goes along.

`from_keras` makes them of Keras's models; the patterns have one recurrent layer, and more freedom elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.data import Batch
from fastrnn.nn.layers import Activation
from fastrnn.nn.losses import MeanSquaredError, SoftmaxCrossEntropy
from fastrnn.nn.model import Loss, Model
from fastrnn.nn.module import Module, parameters
from fastrnn.nn.states import checked, d_final, final
from fastrnn.params import Gradients

__all__ = ["Chain", "Masking", "Recurrence"]

MERGES = ("concat", "sum", "ave", "mul")
ACTIVATIONS = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "mse": None}


class Masking:
    """Hides the steps that hold a value from the recurrent layers of a `Chain`.

    Parameters
    ----------
    value : float
        Of ids, which are integers (T, B), a step is hidden if its id is this. Of features (T, B, I), a step is hidden
        if all of them are this, and they become zero.

    Raises
    ------
    TypeError
        If `value` is not a number.
    """

    output_size = None

    def __init__(self, value: float = 0.0) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"value: expected a number, got {type(value).__name__}")
        self.value = float(value)
        self.params: dict[str, NDArray] = {}
        self.options = {"value": self.value}

    def mask(self, x: Any) -> NDArray[np.bool_]:
        """Return which steps are not hidden, (T, B)."""
        x = np.asarray(x)
        return x != self.value if x.dtype.kind in "iu" else (x != x.dtype.type(self.value)).any(axis=-1)

    def __call__(self, x: Any) -> NDArray:
        """Return x, with zeros for the features of hidden steps."""
        return self.forward(x)[0]

    def forward(self, x: Any, *, rng: Any = None) -> tuple[NDArray, Any]:
        """Return x, as a call does, and the tape: the mask, or None for ids."""
        x = np.asarray(x)
        if x.dtype.kind in "iu":
            return x, None
        mask = self.mask(x)[..., None]
        return x * mask, mask

    def backward(self, tape: Any, dy: Any) -> Gradients:
        """Differentiate `forward`. Pure."""
        return Gradients(dy if tape is None else dy * tape, None, {})


class Recurrence(Module):
    """A recurrent layer as a part of a `Chain`, with the options that Keras's layers have.

    Parameters
    ----------
    rnn : RNN, LSTM or GRU
        With batch_first=False.
    returns : {"sequence", "last"}, default "sequence"
        The outputs at all steps, or the last one in the running order of each direction.
    reverse : bool, default False
        Whether it runs from the end of the (padded) sequence to the start, and gives outputs in that order. Not with
        two directions.
    merge : {"concat", "sum", "ave", "mul"}, default "concat"
        What becomes of the outputs of two directions.
    masked_output : {"zero", "hold"}, default "hold"
        What an output is at hidden steps; see `fastrnn.LSTM`.

    Attributes
    ----------
    params : dict of str to ndarray
        Those of "rnn".

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.
    """

    def __init__(
        self, rnn: Any, *, returns: str = "sequence", reverse: bool = False, merge: str = "concat",
        masked_output: str = "hold",
    ) -> None:  # fmt: skip
        self.rnn = checked("rnn", rnn)
        self.returns = validate.choice("returns", returns, ("sequence", "last"))
        self.reverse, self.merge = validate.flag("reverse", reverse), validate.choice("merge", merge, MERGES)
        self.masked_output = validate.choice("masked_output", masked_output, ("zero", "hold"))
        if rnn.bidirectional and self.reverse:
            raise ValueError("reverse: expected False for a layer of two directions, got True")
        super().__init__(
            {"rnn": rnn}, returns=returns, reverse=self.reverse, merge=merge, masked_output=masked_output
        )  # fmt: skip

    @property
    def output_size(self) -> int:
        """The length of y's last axis."""
        return self.rnn.output_size // (2 if self.rnn.bidirectional and self.merge != "concat" else 1)

    def __call__(self, x: Any, mask: Any = None) -> NDArray:
        """Run the layer over x (T, B, I) at the steps where `mask` (T, B) is true: inference."""
        y, state = self.rnn(*self._ordered(x), **self._masked(mask))
        return self._merged(self._returned(y, state, mask))

    def forward(self, x: Any, mask: Any = None, *, rng: Any = None) -> tuple[NDArray, Any]:
        """Run the layer, and return y and the tape."""
        y, state, tape = self.rnn.forward(*self._ordered(x), **self._masked(mask), rng=rng)
        found = self._returned(y, state, mask)
        return self._merged(found), (tape, y.shape, state, mask, found)

    def backward(self, tape: Any, dy: Any, wants_x: bool = True) -> Gradients:
        """Differentiate `forward`. Pure."""
        rnn_tape, shape, state, mask, found = tape
        d: Any = self._split(found, np.asarray(dy))
        dstate = None
        if self.returns == "last" and self._is_final(mask):
            d, dstate = None, d_final(self.rnn, state, d)
        elif self.returns == "last":
            last, d = d, np.zeros(shape, d.dtype)
            H = shape[-1] // 2 if self.rnn.bidirectional else shape[-1]
            d[-1, :, :H], d[0, :, H:] = last[:, :H], last[:, H:]
        grads = self.rnn.backward(rnn_tape, d, dstate, wants_x=wants_x)
        dx = None if grads.x is None else grads.x[::-1] if self.reverse else grads.x
        return Gradients(dx, None, parameters({"rnn": grads}))

    def _ordered(self, x: Any) -> tuple[Any]:
        return (np.asarray(x)[::-1] if self.reverse else x,)

    def _masked(self, mask: Any) -> dict[str, Any]:
        if mask is None:
            return {}
        return {"mask": mask[::-1] if self.reverse else mask, "masked_output": self.masked_output}

    def _is_final(self, mask: Any) -> bool:
        """Whether the last output is the final state."""
        return mask is None or self.masked_output == "hold"

    def _returned(self, y: NDArray, state: Any, mask: Any) -> NDArray:
        if self.returns == "sequence":
            return y
        if self._is_final(mask):
            return final(self.rnn, state)
        H = y.shape[-1] // 2 if self.rnn.bidirectional else y.shape[-1]
        return np.concatenate([y[-1, :, :H], y[0, :, H:]], axis=-1)

    def _merged(self, y: NDArray) -> NDArray:
        if not self.rnn.bidirectional or self.merge == "concat":
            return y
        a, b = np.split(y, 2, axis=-1)
        return a * b if self.merge == "mul" else a + b if self.merge == "sum" else (a + b) / 2

    def _split(self, y: NDArray, d: NDArray) -> NDArray:
        """The gradient in what `_merged` was given."""
        if not self.rnn.bidirectional or self.merge == "concat":
            return d
        a, b = np.split(y, 2, axis=-1)
        parts = (d * b, d * a) if self.merge == "mul" else (d, d) if self.merge == "sum" else (d / 2, d / 2)
        return np.concatenate(parts, axis=-1)


class Chain(Model):
    """Parts one after the other, any of which may be recurrent: what Keras calls a Sequential model.

    A `Masking` says which steps are hidden. All recurrent layers behind it skip these steps, up to the one that gives
    its last output only. `lengths` hide the steps behind the end of a sequence, too.

    Parameters
    ----------
    parts : mapping of str to part
        A `Masking`, `Embedding`, `Recurrence`, `Linear`, `Activation`, `Dropout` or another part under each name.
    loss : {"cross_entropy", "binary_cross_entropy", "mse"}, default "mse"
        For "cross_entropy" outputs are logits or, if the last part is a softmax, probabilities, and targets y are
        classes, (B,) or at each step (T, B), or -100 to ignore one. For "binary_cross_entropy" outputs are logits or,
        if the last part is a sigmoid, probabilities, and targets are 0 or 1, or -100 to ignore one, as many as outputs;
        the outputs' last axis may be left out if it is 1. For "mse" targets are numbers, as many as outputs, or NaN to
        ignore one. Hidden steps do not count.

    Attributes
    ----------
    params : dict of str to ndarray
        Those of all parts, under "part.name".

    Raises
    ------
    TypeError, ValueError
        If a part is not one, sizes do not fit, or `loss` is none of these.
    """

    def __init__(self, parts: Mapping[str, Any], *, loss: str = "mse") -> None:
        parts = dict(validate.mapping("parts", parts))
        size = None
        for name, part in parts.items():
            reads = _reads(part)
            if size is not None and reads is not None and reads != size:
                raise ValueError(f"parts[{name!r}]: expected a part that reads {size} values, got one for {reads}")
            size = size if getattr(part, "output_size", None) is None else part.output_size
        own = ACTIVATIONS[validate.choice("loss", loss, tuple(ACTIVATIONS))]
        last = next(reversed(parts.values()), None)
        self._gives_probabilities = isinstance(last, Activation) and last.kind == own
        self._inner = len(parts) - self._gives_probabilities  # how many parts the loss runs: it has the activation
        self._criterion: Any = MeanSquaredError() if loss == "mse" else SoftmaxCrossEntropy()
        super().__init__(parts, loss=loss)

    @classmethod
    def rebuilt(cls, parts: dict[str, Any], options: dict[str, Any]) -> Chain:
        """Build the model from its parts; see `Module`."""
        return cls(parts, **options)

    def __call__(self, x: Any, lengths: Any = None) -> NDArray:
        """Return the outputs, (B, K) or (T, B, K), for x (T, B) or (T, B, I) of `lengths` (B,): inference."""
        return self._infer(x, lengths, len(self.parts))[0]

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch, as inference computes it."""
        y, mask = self._infer(batch.x, batch.x_lengths, self._inner)
        rows, targets = self._compared(y, mask, batch.y)
        value, tape = self._criterion.forward(rows, targets)
        return Loss(value, {}, tape.count)

    def loss_and_grads(self, batch: Batch, rng: Any = None) -> Loss:
        """Return the loss of a batch and its gradients; see `Model`."""
        rng = validate.generator("rng", rng)
        x, mask, tapes = batch.x, _of_lengths(batch.x, batch.x_lengths), []
        parts = list(self.parts.items())[: self._inner]
        for _, part in parts:
            mask = _and(mask, part.mask(x)) if isinstance(part, Masking) else mask
            if isinstance(part, Recurrence):
                x, tape = part.forward(x, mask, rng=rng)
                mask = mask if part.returns == "sequence" else None
            else:
                x, tape = part.forward(x, rng=rng)
            tapes.append(tape)
        rows, targets = self._compared(x, mask, batch.y)
        value, loss_tape = self._criterion.forward(rows, targets)
        d = self._unshaped(self._criterion.backward(loss_tape).x, x, mask)
        found: dict[str, Any] = {name: Gradients(None, None, {}) for name in self.parts}
        below = [bool(part.params) for _, part in parts]
        for k, (name, part) in reversed(list(enumerate(parts))):
            if isinstance(part, Recurrence):
                found[name] = part.backward(tapes[k], d, wants_x=any(below[:k]))
            else:
                found[name] = part.backward(tapes[k], d)
            d = found[name].x
            if d is None:
                break
        return Loss(value, parameters(found), loss_tape.count)

    def predict_batch(self, batch: Batch) -> Sequence[Any]:
        """Return each example's class, classes (T,), or numbers.

        With loss "cross_entropy" the likeliest class; with "binary_cross_entropy" for each output whether it is above a
        half, as 0 or 1; with "mse" the outputs.
        """
        y, _ = self._infer(batch.x, batch.x_lengths, len(self.parts))
        if self.options["loss"] == "cross_entropy":
            y = y.argmax(axis=-1)
        elif self.options["loss"] == "binary_cross_entropy":
            y = (y > (0.5 if self._gives_probabilities else 0)).astype(np.int64)
            y = y[..., 0] if y.shape[-1] == 1 else y
        if not self._gives_steps():
            return list(y)
        lengths = [len(y)] * y.shape[1] if batch.x_lengths is None else batch.x_lengths
        return [row[:length] for row, length in zip(y.swapaxes(0, 1), lengths, strict=True)]

    def _gives_steps(self) -> bool:
        """Whether there is an output at each step."""
        return all(part.returns == "sequence" for part in self.parts.values() if isinstance(part, Recurrence))

    def _infer(self, x: Any, lengths: Any, count: int) -> tuple[NDArray, NDArray | None]:
        """What the first parts make of x, and the mask behind them."""
        mask = _of_lengths(x, lengths)
        for part in list(self.parts.values())[:count]:
            mask = _and(mask, part.mask(x)) if isinstance(part, Masking) else mask
            if isinstance(part, Recurrence):
                x = part(x, mask)
                mask = mask if part.returns == "sequence" else None
            else:
                x = part(x)
        return x, mask

    def _compared(self, y: NDArray, mask: NDArray | None, targets: Any) -> tuple[NDArray, NDArray]:
        """Outputs and targets as the criterion takes them, without hidden steps."""
        targets, binary = np.asarray(targets), self.options["loss"] == "binary_cross_entropy"
        if binary and targets.shape == y.shape[:-1] and y.shape[-1] == 1:
            targets = targets[..., None]
        expected = y.shape[:-1] if self.options["loss"] == "cross_entropy" else y.shape
        if targets.shape != expected:
            raise ValueError(f"batch.y: expected {expected}, got {targets.shape}")
        if mask is not None:
            y, targets = y[mask], targets[mask]
        if binary:  # a sigmoid of z is a softmax of (0, z)
            y = np.stack([np.zeros_like(y), y], axis=-1)
        return y, targets

    def _unshaped(self, d: NDArray, like: NDArray, mask: NDArray | None) -> NDArray:
        """The gradient in what the last part gave, from that in what `_compared` made of it."""
        if self.options["loss"] == "binary_cross_entropy":
            d = np.ascontiguousarray(d[..., 1])
        if mask is None:
            return d
        whole = np.zeros_like(like)
        whole[mask] = d
        return whole


def _reads(part: Any) -> int | None:
    """How many values a part reads of each step; None if any number."""
    if isinstance(part, Recurrence):
        return part.rnn.input_size
    return getattr(part, "in_features", None)


def _of_lengths(x: Any, lengths: Any) -> NDArray[np.bool_] | None:
    if lengths is None:
        return None
    T, B = np.shape(x)[:2]
    lengths = validate.as_ndarray("lengths", lengths)
    if lengths.shape != (B,) or lengths.dtype.kind not in "iu" or (lengths < 0).any() or (lengths > T).any():
        raise ValueError(f"lengths: expected ({B},) integers in 0..{T}, got {lengths.dtype} {lengths.shape}")
    return np.arange(T)[:, None] < lengths


def _and(a: NDArray | None, b: NDArray) -> NDArray:
    return b if a is None else a & b
