"""The four patterns of recurrent models: many to one, many to many (an output at each step), one to many, and
encoder-decoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.data import BOS, PAD, Batch
from fastrnn.frozen import Frozen
from fastrnn.layers import Recurrent
from fastrnn.nn import penalties
from fastrnn.nn.checks import part, width
from fastrnn.nn.decoder import Decoder
from fastrnn.nn.generation import Steps, beam_search, draw, sample
from fastrnn.nn.layers import Dropout, Embedding, FrozenEmbedding, FrozenLinear, Linear, packed
from fastrnn.nn.losses import MeanSquaredError, OutputLoss, SoftmaxCrossEntropy
from fastrnn.nn.model import Loss, Model
from fastrnn.nn.module import parameters
from fastrnn.nn.pooling import POOLINGS, pool, unpool
from fastrnn.nn.states import checked, d_final, final, pack, unpack
from fastrnn.stack import State

__all__ = ["EncoderDecoder", "ManyToMany", "ManyToOne", "ModelStream", "OneToMany", "Writer", "cut"]

LOSSES = {"cross_entropy": SoftmaxCrossEntropy, "mse": MeanSquaredError}


class _Reader(Model):
    """The base class of ManyToOne and ManyToMany: an optional embedding, a recurrent layer, an output and a loss."""

    _reads_steps = False  # whether `output` reads all steps

    def __init__(
        self, rnn: Recurrent | Frozen, output: Any, embedding: Any, dropout: Any, locked: bool, loss: str,
        **options: Any,
    ) -> None:  # fmt: skip
        self.rnn = checked("rnn", rnn, None if embedding is None else width("embedding", embedding))
        self.output, self.embedding = output, embedding
        reads = getattr(output, "in_features", rnn.output_size)
        if reads != rnn.output_size:
            raise ValueError(f"output: expected in_features {rnn.output_size}, got {reads}")
        before, after = _two("dropout", dropout)
        self._before = Dropout(before, locked=validate.flag("locked", locked))
        self._after = Dropout(after, locked=locked and self._reads_steps)
        self._criterion: Any = LOSSES[validate.choice("loss", loss, tuple(LOSSES))]()
        parts = {"embedding": embedding, "rnn": rnn, "output": output}
        dropout = before if before == after else [before, after]
        super().__init__(parts, dropout=dropout, locked=locked, loss=loss, **options)

    def stream(self, batch_size: int = 1) -> ModelStream:
        """Return a stream that runs the model one step at a time. Later changes of parameters do not affect it.

        Raises
        ------
        TypeError, ValueError
            If `batch_size` is not an integer of at least 1, or the recurrent layer is bidirectional.
        """
        return ModelStream(self, batch_size, self.options.get("pooling", "last"))

    def _embed(self, x: Any) -> Any:
        return x if self.embedding is None else self.embedding(x)

    def _embed_forward(self, x: Any, rng: Any) -> tuple[Any, Any]:
        x, tape = (x, None) if self.embedding is None else self.embedding.forward(x, rng=rng)
        x, dropped = self._before.forward(x, rng=rng)
        return x, (tape, dropped)

    def _embed_backward(self, tape: Any, dx: NDArray) -> dict[str, Any]:
        if self.embedding is None:
            return {}
        return {"embedding": self.embedding.backward(tape[0], self._before.backward(tape[1], dx).x)}

    def _output_loss(self, rows: NDArray, targets: Any, weights: Any, rng: Any) -> tuple[OutputLoss, NDArray]:
        """Return the loss, with gradients of `output`, and the gradient in `rows`, which `output` reads."""
        found = self._criterion.of_output(self.output, rows, targets, weights=weights, per_target=True, rng=rng)
        return found, found.grads.x

    def _answer(self, outputs: NDArray) -> NDArray:
        return outputs.argmax(axis=-1) if self.options["loss"] == "cross_entropy" else outputs

    def _grads(self, found: dict[str, Any]) -> dict[str, NDArray]:
        return parameters({name: found[name] for name in self.parts})


class ManyToOne(_Reader):
    """From a sequence to a class, or to numbers: the outputs over time are pooled, and a layer reads the result.

    Parameters
    ----------
    rnn : RNN, LSTM or GRU
        With batch_first=False.
    output : Linear or other part
        From the pooled outputs to the logits of K classes, or to K numbers.
    embedding : Embedding, WordEncoder or other part, optional
        Applied to x first. Default: x are features, which the recurrent layer reads.
    pooling : {"last", "mean", "max"}, default "last"
        The final state of the last layer, with both directions joined, or the mean or maximum of the outputs over time.
    dropout : float or pair of float, default 0.0
        Dropout of the inputs of the recurrent layer and of `output`, in training; a pair has one for each of the two.
    locked : bool, default False
        Whether dropout has the same mask at all steps of a sequence: variational dropout.
    loss : {"cross_entropy", "mse"}, default "cross_entropy"
        For "cross_entropy", targets y are classes (B,), or -100 to ignore one. For "mse" they are numbers (B, K), or
        NaN to ignore one.

    Attributes
    ----------
    params : dict of str to ndarray
        Those of "embedding", "rnn" and "output".

    Raises
    ------
    TypeError, ValueError
        If a part is of a wrong kind, or sizes do not fit.
    """

    def __init__(
        self, rnn: Recurrent | Frozen, output: Any, embedding: Any = None, *, pooling: str = "last",
        dropout: Any = 0.0, locked: bool = False, loss: str = "cross_entropy",
    ) -> None:  # fmt: skip
        self.pooling = validate.choice("pooling", pooling, POOLINGS)
        super().__init__(rnn, output, embedding, dropout, locked, loss, pooling=pooling)

    def __call__(self, x: Any, lengths: Any = None) -> NDArray:
        """Return the outputs (B, K) for x (T, B, ...) of `lengths` (B,): inference."""
        y, state = self.rnn(self._embed(x), lengths=lengths)
        return self.output(pool(self.pooling, self.rnn, y, state, lengths)[0])

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch, as inference computes it."""
        y, state = self.rnn(self._embed(batch.x), lengths=batch.x_lengths)
        pooled = pool(self.pooling, self.rnn, y, state, batch.x_lengths)[0]
        loss = self._criterion.of_output(
            self.output, pooled, batch.y, weights=_weights(batch, 0), per_target=True, grads=False
        )  # fmt: skip
        return Loss(loss.value, {}, loss.targets)

    def loss_and_grads(self, batch: Batch, rng: Any = None) -> Loss:
        """Return the loss of a batch and its gradients; see `Model`."""
        rng = validate.generator("rng", rng)
        x, embed_tape = self._embed_forward(batch.x, rng)
        y, state, rnn_tape = self.rnn.forward(x, lengths=batch.x_lengths, rng=rng)
        pooled, pool_tape = pool(self.pooling, self.rnn, y, state, batch.x_lengths)
        pooled, dropped = self._after.forward(pooled, rng=rng)
        loss, d_pooled = self._output_loss(pooled, batch.y, _weights(batch, 0), rng)

        d_pooled = self._after.backward(dropped, d_pooled).x
        rnn = self.rnn.backward(rnn_tape, *unpool(self.rnn, pool_tape, d_pooled), wants_x=self.embedding is not None)
        found = {"output": loss.grads, "rnn": rnn, **self._embed_backward(embed_tape, rnn.x)}
        return Loss(loss.value, self._grads(found), loss.targets)

    def predict_batch(self, batch: Batch) -> Sequence[Any]:
        """Return each example's class or, with loss "mse", numbers."""
        return list(self._answer(self(batch.x, batch.x_lengths)))


class ManyToMany(_Reader):
    """From a sequence to a class, or numbers, at each step: taggers and, if targets are the next ids, language models.

    Parameters
    ----------
    rnn, output, embedding, dropout, locked
        As for `ManyToOne`.
    loss : {"cross_entropy", "mse"}, default "cross_entropy"
        For "cross_entropy", targets y are classes (T, B), or -100 to ignore one. For "mse" they are numbers (T, B, K),
        or NaN to ignore one. Steps after the end of a sequence do not count.
    tied : bool, default False
        Whether the weight of `output`, a Linear, is the table of `embedding`, an Embedding of the same shape (V, E).
        They are one array then, that of the embedding. An optimiser adds the gradients under its two names.
    ar : float, default 0.0
        In training, this many times the mean square of what `output` reads is added to the loss: activation
        regularisation.
    tar : float, default 0.0
        In training, this many times the mean square of the differences between the outputs of the recurrent layer at
        neighbouring steps, before dropout, is added to the loss: temporal activation regularisation.

    Attributes
    ----------
    params : dict of str to ndarray
        Those of "embedding", "rnn" and "output".

    Raises
    ------
    TypeError, ValueError
        If a part is of a wrong kind, or sizes do not fit.

    References
    ----------
    Tied weights: O. Press, L. Wolf, "Using the Output Embedding to Improve Language Models", EACL 2017. Activation
    regularisation: S. Merity, B. McCann, R. Socher, "Revisiting Activation Regularization for Language RNNs",
    arXiv:1708.01009 (2017). All of these together, with weight dropout: S. Merity, N. S. Keskar, R. Socher,
    "Regularizing and Optimizing LSTM Language Models" (AWD-LSTM), ICLR 2018.
    """

    _reads_steps = True

    def __init__(
        self, rnn: Recurrent | Frozen, output: Any, embedding: Any = None, *, dropout: Any = 0.0, locked: bool = False,
        loss: str = "cross_entropy", tied: bool = False, ar: float = 0.0, tar: float = 0.0,
    ) -> None:  # fmt: skip
        self.ar, self.tar = validate.at_least_zero("ar", ar), validate.at_least_zero("tar", tar)
        tied = validate.flag("tied", tied)
        super().__init__(rnn, output, embedding, dropout, locked, loss, tied=tied, ar=self.ar, tar=self.tar)
        if tied:
            _tie(embedding, output)

    def __call__(self, x: Any, lengths: Any = None, state: Any = None) -> tuple[NDArray, State]:
        """Return the outputs (T, B, K) and the final state for x (T, B, ...) of `lengths` (B,): inference."""
        y, state = self.rnn(self._embed(x), state, lengths=lengths)
        return self.output(y), state

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch, as inference computes it, and the final state."""
        y, state = self.rnn(self._embed(batch.x), batch.state, lengths=batch.x_lengths)
        rows, (targets, weights) = pack(y, batch.x_lengths), _step_targets(batch)
        loss = self._criterion.of_output(
            self.output, rows, targets, weights=weights, per_target=True, grads=False
        )  # fmt: skip
        return Loss(loss.value, {}, loss.targets, state)

    def loss_and_grads(self, batch: Batch, rng: Any = None) -> Loss:
        """Return the loss of a batch, its gradients and the final state; see `Model`.

        No gradient flows into `batch.state`: across chunks, backpropagation through time is truncated.
        """
        rng, lengths = validate.generator("rng", rng), batch.x_lengths
        x, embed_tape = self._embed_forward(batch.x, rng)
        y, state, rnn_tape = self.rnn.forward(x, batch.state, lengths=lengths, rng=rng)
        rows, dropped = self._drop_steps(y, lengths, rng)
        loss, d_rows = self._output_loss(rows, *_step_targets(batch), rng)

        value = loss.value
        if self.ar:
            penalty, d = penalties.activation(rows, self.ar)
            value, d_rows = value + penalty, d_rows + d
        dy = self._drop_steps_backward(dropped, d_rows, y, lengths)
        if self.tar:
            penalty, d = penalties.temporal_activation(y, lengths, self.tar)
            value, dy = value + penalty, dy + d
        rnn = self.rnn.backward(rnn_tape, dy, wants_x=self.embedding is not None)
        found = {"output": loss.grads, "rnn": rnn, **self._embed_backward(embed_tape, rnn.x)}
        return Loss(value, self._grads(found), loss.targets, state)

    def _drop_steps(self, y: NDArray, lengths: Any, rng: Any) -> tuple[NDArray, Any]:
        """Return the valid steps of y as rows, with dropout, and its tape."""
        if not self._after.locked:
            return self._after.forward(pack(y, lengths), rng=rng)
        y, dropped = self._after.forward(y, rng=rng)
        return pack(y, lengths), dropped

    def _drop_steps_backward(self, dropped: Any, d_rows: NDArray, y: NDArray, lengths: Any) -> NDArray:
        """Differentiate `_drop_steps`."""
        if not self._after.locked:
            return unpack(self._after.backward(dropped, d_rows).x, y, lengths)
        return self._after.backward(dropped, unpack(d_rows, y, lengths)).x

    def predict_batch(self, batch: Batch) -> Sequence[Any]:
        """Return each example's classes (T,) or, with loss "mse", numbers (T, K)."""
        y, _ = self(batch.x, batch.x_lengths)
        if y.ndim < 3:
            raise ValueError(f"batch.x: expected a batch of sequences, got one sequence, {np.shape(batch.x)}")
        return cut(self._answer(y), batch)

    def generate(
        self, prompt: Any, temperature: float = 1.0, rng: Any = None, banned: Sequence[int] = ()
    ) -> Iterator[int]:
        """For a language model: read the prompt, then yield ids without end, each drawn given all ids before it.

        Parameters
        ----------
        prompt : array_like of int
            At least one id.
        temperature, rng, banned
            As for `fastrnn.nn.draw`.

        Raises
        ------
        ValueError
            If the prompt is empty.
        """
        if not len(prompt):
            raise ValueError("prompt: expected at least one id, got none")
        rng, stream = validate.generator("rng", rng), self.stream()
        for k in prompt:
            outputs = stream.step([k])
        while True:
            (k,) = draw(outputs, temperature, rng, banned)
            yield int(k)
            outputs = stream.step([k])


def _two(name: str, value: Any) -> tuple[Any, Any]:
    """A value for each of two places, given as a pair, or as one for both."""
    if not isinstance(value, (tuple, list)):
        return value, value
    if len(value) != 2:
        raise ValueError(f"{name}: expected a number or a pair, got {len(value)} items")
    return value[0], value[1]


def _tie(embedding: Any, output: Any) -> None:
    """Make the embedding's table the weight of the output."""
    part("embedding", embedding, Embedding, FrozenEmbedding)
    part("output", output, Linear, FrozenLinear)
    table, weight = embedding.params["weight"], output.params["weight"]
    if table.shape != weight.shape or embedding.columns is not None:
        raise ValueError(f"tied: expected an output whose weight is like the table {table.shape}, got {weight.shape}")
    if table.dtype == weight.dtype and isinstance(output, Linear):  # what is frozen has its own copy
        output.params["weight"] = table


def cut(steps: NDArray, batch: Batch) -> list[NDArray]:
    """Return the valid steps (T_k, ...) of each example, from (T, B, ...)."""
    lengths = [len(batch.x)] * steps.shape[1] if batch.x_lengths is None else batch.x_lengths
    return [row[:length] for row, length in zip(steps.swapaxes(0, 1), lengths, strict=True)]


def _step_targets(batch: Batch) -> tuple[NDArray, NDArray | None]:
    """Return the targets of the valid steps as rows (N, ...), and their weights."""
    if not isinstance(batch.y, np.ndarray) or batch.y.shape[:2] != np.shape(batch.x)[:2]:
        got = batch.y.shape if isinstance(batch.y, np.ndarray) else type(batch.y).__name__
        raise ValueError(f"batch.y: expected {np.shape(batch.x)[:2]} and maybe more axes, a target a step, got {got}")
    weights = _weights(batch, 1)
    return pack(batch.y, batch.x_lengths), None if weights is None else pack(weights, batch.x_lengths)


def _weights(batch: Batch, axis: int) -> NDArray | None:
    """Return the weights of the examples, which lie along this axis of y, for each of the targets."""
    if batch.weights is None:
        return None
    weights, shape = validate.as_ndarray("batch.weights", batch.weights), np.asarray(batch.y).shape
    if weights.shape != shape[axis : axis + 1]:
        raise ValueError(f"batch.weights: expected {shape[axis : axis + 1]}, one for each example, got {weights.shape}")
    return np.broadcast_to(weights.reshape(-1, *(1,) * (len(shape) - 1 - axis)), shape)


class ModelStream:
    """A model that reads one step at a time, made by its `stream()`, with the parameters at that time."""

    def __init__(self, model: _Reader, batch_size: int, pooling: str) -> None:
        self._model, self._pooling = model, pooling
        self._output, self._rnn = packed(model.output), packed(model.rnn).stream(batch_size)
        self._pooled: Any = None
        self._counts = np.zeros((batch_size, 1), model.rnn.dtype)
        self.reset()

    def step(self, x: Any) -> NDArray:
        """Advance every row by one step.

        Parameters
        ----------
        x : array_like
            (B, ...), one step of the model's input.

        Returns
        -------
        ndarray
            (B, K): the model's outputs, logits or numbers, given the steps so far.
        """
        y = self._rnn.step(self._model._embed(x))
        if self._pooling == "mean":
            self._counts += 1
            self._pooled = self._pooled + y
            y = self._pooled / self._counts
        elif self._pooling == "max":
            y = self._pooled = np.maximum(self._pooled, y)
        return self._output(y)

    def reset(self, rows: Any = None) -> None:
        """Start again from zeros: rows by index or mask, or all."""
        self._rnn.reset(rows)
        start = -np.inf if self._pooling == "max" else 0
        if rows is None or self._pooled is None:
            size = self._model.rnn.output_size
            self._pooled = np.full((len(self._counts), size), start, self._model.rnn.dtype)
            self._counts[:] = 0
        else:
            index = validate.rows("rows", rows, len(self._counts))
            self._pooled[index], self._counts[index] = start, 0


class Writer(Model):
    """A model that writes a sequence of ids of any length for each x. A subclass also defines `steps`."""

    def predict_batch(
        self, batch: Batch, *, beams: int = 1, max_length: int = 100, length_penalty: float = 1.0,
        banned: Sequence[int] = (PAD, BOS),
    ) -> Sequence[Any]:  # fmt: skip
        """Return the likeliest sequence of ids found for each example, without BOS and EOS.

        Parameters
        ----------
        batch : Batch
            y is ignored.
        beams : int, default 1
            How many sequences are kept at each step. With 1 the search is greedy.
        max_length, length_penalty, banned
            As for `fastrnn.nn.beam_search`.
        """
        return beam_search(self.steps(batch.x, batch.x_lengths, beams), max_length, length_penalty, banned)

    def generate(
        self, x: Any, lengths: Any = None, *, temperature: float = 1.0, max_length: int = 100, rng: Any = None,
        banned: Sequence[int] = (PAD, BOS),
    ) -> list[NDArray[np.intp]]:  # fmt: skip
        """Draw a sequence of ids for each x, without BOS and EOS; arguments as for `fastrnn.nn.sample`."""
        return sample(self.steps(x, lengths), max_length, temperature, rng, banned)

    def steps(self, x: Any, lengths: Any = None, width: int = 1) -> Steps:
        """Return the model's `Steps` before the first id, with `width` rows for each x.

        They take one id of each row, and return the logits of the next.
        """
        raise NotImplementedError


class _Single(Writer):
    """The base class of OneToMany and EncoderDecoder: a decoder, and what encodes x as a vector and a memory."""

    decoder: Decoder

    def encode(self, x: Any, lengths: Any = None) -> tuple[NDArray, NDArray | None]:
        """Return the vector (B, F) that the decoder starts from, and the memory (S, B, M) that its attention reads."""
        raise NotImplementedError

    def _encode_forward(self, batch: Batch, rng: Any) -> tuple[NDArray, NDArray | None, Any]:
        raise NotImplementedError

    def _encode_backward(self, tape: Any, d_vector: NDArray, d_memory: NDArray | None) -> dict[str, Any]:
        raise NotImplementedError

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch as in inference, but with teacher forcing."""
        vector, memory = self.encode(batch.x, batch.x_lengths)
        value, count = self.decoder.loss(vector, _ids(batch), batch.y_lengths, memory, batch.x_lengths)
        return Loss(value, {}, count)

    def loss_and_grads(self, batch: Batch, rng: Any = None) -> Loss:
        """Return the loss of a batch and its gradients, with teacher forcing. See `Model`."""
        rng = validate.generator("rng", rng)
        vector, memory, tape = self._encode_forward(batch, rng)
        value, decoder_tape = self.decoder.forward(
            vector, _ids(batch), batch.y_lengths, memory, batch.x_lengths, rng=rng
        )  # fmt: skip
        d_vector, d_memory, grads = self.decoder.backward(decoder_tape)
        found = parameters(self._encode_backward(tape, d_vector, d_memory))
        found |= {f"decoder.{name}": g for name, g in grads.items()}
        return Loss(value, {name: found[name] for name in self.params}, decoder_tape.count)

    def steps(self, x: Any, lengths: Any = None, width: int = 1) -> Steps:
        """See `Writer.steps`."""
        vector, memory = self.encode(x, lengths)
        return self.decoder.steps(vector, memory, lengths, validate.size("beams", width))


def _ids(batch: Batch) -> NDArray:
    if not isinstance(batch.y, np.ndarray) or batch.y.ndim != 2:
        got = batch.y.shape if isinstance(batch.y, np.ndarray) else type(batch.y).__name__
        raise ValueError(f"batch.y: expected ids (U, B), got {got}")
    if batch.weights is not None:
        raise ValueError("batch.weights: expected None, as models that write have no weights of examples, got some")
    return batch.y


class OneToMany(_Single):
    """From a vector to a sequence, such as an image to its caption: the decoder's initial state is made of the vector.

    Parameters
    ----------
    decoder : Decoder
        Without attention. Its bridge reads the encoder's output.
    encoder : Linear, Sequential or other part, optional
        Applied to x (B, ...) first. Default: the decoder reads x itself.

    Attributes
    ----------
    params : dict of str to ndarray
        Those of "encoder" and "decoder".

    Raises
    ------
    ValueError
        If the decoder has attention, or sizes do not fit.
    """

    def __init__(self, decoder: Decoder, encoder: Any = None) -> None:
        self.decoder, self.encoder = part("decoder", decoder, Decoder), encoder
        if decoder.attention is not None:
            raise ValueError("decoder: expected one without attention, for there is no memory to read")
        if encoder is not None and width("encoder", encoder) not in (None, decoder.bridge.in_features):
            raise ValueError(f"encoder: expected {decoder.bridge.in_features} outputs, got {encoder.output_size}")
        super().__init__({"encoder": encoder, "decoder": decoder})

    def encode(self, x: Any, lengths: Any = None) -> tuple[NDArray, None]:
        """Return the vector (B, F) that the decoder starts from, and None."""
        return np.asarray(x) if self.encoder is None else self.encoder(x), None

    def _encode_forward(self, batch: Batch, rng: Any) -> tuple[NDArray, None, Any]:
        vector, tape = (batch.x, None) if self.encoder is None else self.encoder.forward(batch.x, rng=rng)
        return vector, None, tape

    def _encode_backward(self, tape: Any, d_vector: NDArray, d_memory: NDArray | None) -> dict[str, Any]:
        return {} if self.encoder is None else {"encoder": self.encoder.backward(tape, d_vector)}


class EncoderDecoder(_Single):
    """From a sequence to another: one recurrent layer reads, and a decoder writes from its final state.

    Parameters
    ----------
    encoder : RNN, LSTM or GRU
        With batch_first=False. Its output size D*O is that of the input of the decoder's bridge, and of the memory
        that the decoder's attention reads.
    decoder : Decoder
        Writes y.
    embedding : Embedding, WordEncoder or other part, optional
        Applied to x first. Default: x are features, which the encoder reads.
    dropout : float, default 0.0
        Dropout of the encoder's inputs, in training.

    Attributes
    ----------
    params : dict of str to ndarray
        Those of "embedding", "encoder" and "decoder".

    Raises
    ------
    TypeError, ValueError
        If a part is of a wrong kind, or sizes do not fit.
    """

    def __init__(
        self, encoder: Recurrent | Frozen, decoder: Decoder, embedding: Any = None, *, dropout: float = 0.0
    ) -> None:
        self.encoder = checked("encoder", encoder, None if embedding is None else width("embedding", embedding))
        self.decoder, self.embedding, self._dropout = part("decoder", decoder, Decoder), embedding, Dropout(dropout)
        size = encoder.output_size
        if decoder.bridge.in_features != size:
            raise ValueError(f"decoder: expected a bridge with in_features {size}, got {decoder.bridge.in_features}")
        if decoder.attention is not None and decoder.attention.keys.in_features != size:
            got = decoder.attention.keys.in_features
            raise ValueError(f"decoder: expected an attention with memory_size {size}, got {got}")
        super().__init__({"embedding": embedding, "encoder": encoder, "decoder": decoder}, dropout=dropout)

    def encode(self, x: Any, lengths: Any = None) -> tuple[NDArray, NDArray | None]:
        """Return the final state (B, D*O) of the encoder's last layer, and its outputs (S, B, D*O)."""
        x = x if self.embedding is None else self.embedding(x)
        y, state = self.encoder(x, lengths=lengths)
        return final(self.encoder, state), y

    def _encode_forward(self, batch: Batch, rng: Any) -> tuple[NDArray, NDArray, Any]:
        x, embedding_tape = (batch.x, None) if self.embedding is None else self.embedding.forward(batch.x, rng=rng)
        x, dropped = self._dropout.forward(x, rng=rng)
        y, state, tape = self.encoder.forward(x, lengths=batch.x_lengths, rng=rng)
        return final(self.encoder, state), y, (embedding_tape, dropped, tape, state)

    def _encode_backward(self, tape: Any, d_vector: NDArray, d_memory: NDArray | None) -> dict[str, Any]:
        embedding_tape, dropped, encoder_tape, state = tape
        d_state = d_final(self.encoder, state, d_vector)
        found = {"encoder": self.encoder.backward(encoder_tape, d_memory, d_state, wants_x=self.embedding is not None)}
        if self.embedding is not None:
            dx = self._dropout.backward(dropped, found["encoder"].x).x
            found["embedding"] = self.embedding.backward(embedding_tape, dx)
        return found
