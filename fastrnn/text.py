"""A character language model: embedding, recurrent layer, linear layer; its training, its file and its samples.

The model reads a text one character at a time and says at each how likely every character is to come next. This is
what the command line's `demo` and `sample` run, and a worked example of training with this package.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import nn, optim, serialization
from fastrnn.layers import GRU, LSTM, RNN
from fastrnn.stack import State

__all__ = ["CELLS", "CharModel", "Progress", "Training", "Vocabulary", "evaluate"]

CELLS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}

# Stands for every character that the vocabulary lacks. It is what decoders put in place of what they cannot read.
UNKNOWN = "\N{REPLACEMENT CHARACTER}"

FORMAT = "fastrnn character model 1"

# Columns into which a text is cut for evaluation, so that a step has enough rows to be fast. Each starts without
# context: at most this many characters of the text are harder than they need be.
EVALUATION_COLUMNS = 64
EVALUATION_STEPS = 128


class Vocabulary:
    """Characters (code points) and their ids: 0 is unknown, the others are in code point order.

    Parameters
    ----------
    text : str
        Its characters, each once, are the vocabulary.
    """

    def __init__(self, text: str) -> None:
        self.characters = UNKNOWN + "".join(sorted(set(text) - {UNKNOWN}))
        self._points = _code_points(self.characters[1:])

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> NDArray[np.intp]:
        """Return the ids of a text's characters, (len(text),)."""
        points = _code_points(text)
        if not self._points.size:
            return np.zeros(points.size, np.intp)
        near = np.minimum(np.searchsorted(self._points, points), self._points.size - 1)
        return np.where(self._points[near] == points, near + 1, 0)

    def decode(self, ids: NDArray[np.integer]) -> str:
        """Return the characters of ids."""
        return "".join(self.characters[k] for k in ids)


class CharModel:
    """Embedding, recurrent layer and linear layer over a vocabulary.

    Parameters
    ----------
    vocabulary : Vocabulary
        V characters.
    cell : {"lstm", "gru", "rnn"}, default "lstm"
        Kind of the recurrent layer.
    hidden_size, num_layers : int
        H and L of the recurrent layer.
    embedding_size : int
        E, its input size.
    rng : seed or numpy.random.Generator, optional
        Source of the initial parameters.
    """

    def __init__(
        self, vocabulary: Vocabulary, cell: str, hidden_size: int, num_layers: int, embedding_size: int,
        rng: Any = None,
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(rng)
        self.vocabulary, self.cell = vocabulary, cell
        self.embedding = nn.Embedding(len(vocabulary), embedding_size, rng=rng)
        self.rnn = CELLS[cell](embedding_size, hidden_size, num_layers, rng=rng)
        self.output = nn.Linear(hidden_size, len(vocabulary), rng=rng)
        self.criterion = nn.SoftmaxCrossEntropy()
        self.parts: dict[str, nn.HasParams] = {"embedding": self.embedding, "rnn": self.rnn, "output": self.output}
        self.embedding.params["weight"][0] = 0  # the unknown character is never seen in training: make it neutral
        if cell == "lstm":
            for layer in range(num_layers):
                # Open forget gates let gradients through from the start (Gers et al. 2000; Jozefowicz et al. 2015).
                self.rnn.params[f"bias_ih_l{layer}"][hidden_size : 2 * hidden_size] = 1

    @property
    def params(self) -> dict[str, NDArray]:
        """All parameters under "part.name": the arrays themselves."""
        return nn.parameters(self.parts)

    def loss(self, ids: NDArray, targets: NDArray, state: State | None = None) -> tuple[float, State]:
        """Return the mean loss in nats of predicting `targets` (T, B) while reading `ids` (T, B), and the state."""
        y, state = self.rnn(self.embedding(ids), state)
        return self.criterion(self.output(y), targets), state

    def gradients(
        self, ids: NDArray, targets: NDArray, state: State | None = None
    ) -> tuple[float, dict[str, NDArray], State]:
        """Return the loss as `loss` does, its gradients in all parameters, and the state.

        No gradient flows into `state`: across chunks, backpropagation through time is truncated.
        """
        x, embedding_tape = self.embedding.forward(ids)
        y, state, rnn_tape = self.rnn.forward(x, state)
        logits, output_tape = self.output.forward(y)
        loss, loss_tape = self.criterion.forward(logits, targets)

        output = self.output.backward(output_tape, self.criterion.backward(loss_tape).x)
        rnn = self.rnn.backward(rnn_tape, output.x)
        embedding = self.embedding.backward(embedding_tape, rnn.x)
        return loss, nn.parameters({"embedding": embedding, "rnn": rnn, "output": output}), state

    def sample(self, prompt: str, temperature: float = 1.0, rng: Any = None) -> Iterator[str]:
        """Read the prompt, then yield characters without end, each drawn given all before it.

        Parameters
        ----------
        prompt : str
            At least one character.
        temperature : float, default 1.0
            Logits are divided by it: below 1 is more careful; 0 always takes the likeliest character.
        rng : seed or numpy.random.Generator, optional
            Source of the draws.
        """
        if not prompt:
            raise ValueError("prompt: expected at least one character, got none")
        rng = np.random.default_rng(rng)
        stream = self.rnn.freeze().stream(1)
        for k in self.vocabulary.encode(prompt):
            y = stream.step(self.embedding([k]))
        while True:
            logits = self.output(y)[0].astype(np.float64)
            logits[0] = -np.inf  # the unknown character is no text
            logits -= logits.max()
            k = rng.choice(logits.size, p=nn.softmax(logits / temperature)) if temperature else logits.argmax()
            yield self.vocabulary.characters[k]
            y = stream.step(self.embedding([k]))

    def save(
        self, path: str | os.PathLike[str], params: Mapping[str, NDArray] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Write `params` (default: the model's) with the vocabulary, and `metadata`, to .npz or .safetensors."""
        words = {"format": FORMAT, "cell": self.cell, "characters": self.vocabulary.characters}
        serialization.save(path, self.params if params is None else params, {**(metadata or {}), **words})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CharModel:
        """Read what `save` wrote. Sizes are those of the arrays.

        Raises
        ------
        ValueError
            If the file is damaged or holds something else; the message names the path.
        OSError
            If it cannot be read.
        """
        tensors, words = serialization.load(path)
        try:
            if words.get("format") != FORMAT:
                raise ValueError(f"expected a {FORMAT!r}, got {words.get('format', 'no format')!r}")
            vocabulary = Vocabulary(words["characters"])
            layers = sum(name.startswith("rnn.weight_hh_l") for name in tensors)
            embedding_size, hidden_size = tensors["embedding.weight"].shape[1], tensors["rnn.weight_hh_l0"].shape[1]
            model = cls(vocabulary, words["cell"], hidden_size, layers, embedding_size)
            nn.load_parameters(model.parts, tensors)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)}: not a character model ({type(error).__name__}: {error})") from error
        return model


def evaluate(model: CharModel, ids: NDArray) -> float:
    """Return the mean loss, in nats per character, of predicting each character of `ids` from all before it.

    The state is carried through the whole text. It is read in up to 64 columns side by side, each from a zero state.
    """
    columns = max(1, min(EVALUATION_COLUMNS, (ids.size - 1) // EVALUATION_STEPS))
    inputs, targets = _columns(ids, columns)
    state, total = None, 0.0
    for start in range(0, len(inputs), EVALUATION_STEPS):
        part = slice(start, start + EVALUATION_STEPS)
        loss, state = model.loss(inputs[part], targets[part], state)
        total += loss * len(inputs[part])
    return total / len(inputs)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is after a step.

    Attributes
    ----------
    step : int
        Steps so far.
    fraction : float
        Share of the budget that is spent, 0 to 1.
    loss : float
        Training loss, nats per character: a running mean over about the last 50 steps.
    characters_per_second : float
        Characters learned from, per second of training; evaluation does not count.
    valid_loss : float or None
        Loss on the held-out text, where it has just been computed.
    """

    step: int
    fraction: float
    loss: float
    characters_per_second: float
    valid_loss: float | None


class Training:
    """Truncated backpropagation through time with AdamW, for as long as a budget lasts.

    The text is cut into `batch` columns, read side by side in chunks of `seq_len` characters. The state is carried from
    chunk to chunk, the gradient is not. At the text's end it starts again, with other chunk boundaries.

    Parameters
    ----------
    model : CharModel
        Trained in place.
    train_ids, valid_ids : ndarray of int
        The text, at least batch * seq_len + 1 characters, and the text held out, at least 2.
    batch, seq_len : int
        Columns, and steps of a chunk.
    seconds : float, optional
        Budget of wall-clock time, evaluations included. The learning rate follows it, so no two runs are quite alike.
    steps : int, optional
        Budget of steps, instead; the same seed then gives the same result.
    lr : float
        Highest learning rate: reached after 2 % of the budget, then down a half cosine to a hundredth at the end.
    weight_decay, max_norm : float
        Of AdamW, and of gradient clipping.
    evaluations : int
        How often, at even distances and at last at the end, the held-out text is evaluated.
    rng : seed or numpy.random.Generator, optional
        Source of the chunk boundaries.

    Raises
    ------
    ValueError
        If a text is too short, or not exactly one budget is given.

    Attributes
    ----------
    best_loss : float
        The lowest loss on the held-out text so far; infinity before the first.
    best_params : dict of str to ndarray
        Copies of the parameters that had it; the model's own before the first.
    """

    def __init__(
        self, model: CharModel, train_ids: NDArray, valid_ids: NDArray, *, batch: int, seq_len: int,
        seconds: float | None = None, steps: int | None = None, lr: float = 15e-3, weight_decay: float = 0.01,
        max_norm: float = 1.0, evaluations: int = 10, rng: Any = None,
    ) -> None:  # fmt: skip
        if (seconds is None) == (steps is None):
            raise ValueError("seconds, steps: expected one of them")
        least = batch * seq_len + 1
        if train_ids.size < least or valid_ids.size < 2:
            raise ValueError(
                f"text: expected at least {least} characters to train on (batch * seq_len + 1) and 2 held out, "
                f"got {train_ids.size} and {valid_ids.size}"
            )
        self.model, self.train_ids, self.valid_ids = model, train_ids, valid_ids
        self.batch, self.seq_len, self.seconds, self.steps = batch, seq_len, seconds, steps
        self.lr, self.max_norm, self.evaluations = lr, max_norm, evaluations
        self.optimizer = optim.AdamW(model.params, lr, betas=(0.9, 0.99), weight_decay=weight_decay)
        self.rng = np.random.default_rng(rng)
        self.best_loss, self.best_params = math.inf, model.params

    def __iter__(self) -> Iterator[Progress]:
        """Train until the budget is spent; yield after each step."""
        begin = time.perf_counter()
        evaluating = 0.0  # seconds
        mean_loss = 0.0
        done = 0  # evaluations
        state: State | None = None
        for step, (ids, targets, first) in enumerate(self.chunks(), 1):
            self.optimizer.lr = self.lr * _schedule(self._fraction(begin, step))
            loss, state = self.learn(ids, targets, None if first else state)
            mean_loss += (loss - mean_loss) / min(step, 50)

            fraction = self._fraction(begin, step)
            speed = step * ids.size / (time.perf_counter() - begin - evaluating)
            valid_loss = None
            if fraction * self.evaluations >= done + 1:
                done = int(fraction * self.evaluations)
                pause = time.perf_counter()
                valid_loss = evaluate(self.model, self.valid_ids)
                evaluating += time.perf_counter() - pause
                if valid_loss < self.best_loss:
                    self.best_loss = valid_loss
                    self.best_params = {name: p.copy() for name, p in self.model.params.items()}
            yield Progress(step, fraction, mean_loss, speed, valid_loss)
            if fraction >= 1:
                return

    def learn(self, ids: NDArray, targets: NDArray, state: State | None) -> tuple[float, State]:
        """Take one training step on a chunk that starts from `state`; return its loss and the state after it."""
        loss, grads, state = self.model.gradients(ids, targets, state)
        if math.isfinite(optim.clip_grad_norm(grads, self.max_norm)):
            self.optimizer.step(grads)
        return loss, state

    def chunks(self) -> Iterator[tuple[NDArray, NDArray, bool]]:
        """Yield inputs and targets (seq_len, batch), and whether the state starts anew, without end."""
        spare = self.train_ids.size - 1 - self.batch * self.seq_len
        while True:
            start = int(self.rng.integers(min(self.seq_len, spare + 1)))
            inputs, targets = _columns(self.train_ids[start:], self.batch)
            for t in range(0, len(inputs) - self.seq_len + 1, self.seq_len):
                yield inputs[t : t + self.seq_len], targets[t : t + self.seq_len], t == 0

    def _fraction(self, begin: float, step: int) -> float:
        if self.steps is not None:
            return min(1.0, step / self.steps)
        return min(1.0, (time.perf_counter() - begin) / max(self.seconds or 0.0, 1e-9))


def _schedule(fraction: float) -> float:
    """The learning rate's share of its highest: linear warm-up, then a half cosine."""
    warm_up = 0.02
    if fraction < warm_up:
        return fraction / warm_up
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (fraction - warm_up) / (1 - warm_up))) / 2


def _columns(ids: NDArray, count: int) -> tuple[NDArray, NDArray]:
    """Cut a text into `count` columns of equal length: inputs and targets (n, count), targets one character later."""
    n = (ids.size - 1) // count
    return ids[: n * count].reshape(count, n).T, ids[1 : n * count + 1].reshape(count, n).T


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
