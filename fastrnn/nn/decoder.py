"""The decoder, which writes a sequence of ids, given a vector and, with attention, a memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.data import BOS, EOS
from fastrnn.frozen import Frozen
from fastrnn.layers import Recurrent
from fastrnn.nn.attention import Attention
from fastrnn.nn.checks import integers, part, same_shape, width, within
from fastrnn.nn.layers import Dropout, Embedding, FrozenEmbedding, FrozenLinear, Linear, packed
from fastrnn.nn.losses import SoftmaxCrossEntropy
from fastrnn.nn.module import Module, parameters
from fastrnn.nn.states import checked, join_state, pack, split_state, state_size, unpack
from fastrnn.params import Gradients

__all__ = ["Decoder", "DecoderSteps"]


@dataclass(frozen=True, slots=True)
class DecoderTape:
    """What `Decoder.backward` needs."""

    count: int
    bridge: Any
    start: NDArray
    embedding: Any
    dropped_in: Any
    rnn: Any
    attention: Any
    dropped_out: Any
    output: Any  # gradients: they are computed together with the loss
    like: NDArray
    lengths: NDArray | None


class Decoder(Module):
    """A recurrent layer that starts from a state made of a vector, and reads the ids that it has written.

    Ids are those of a vocabulary with the usual special tokens. Sequences start with BOS and end with EOS; targets do
    not contain these, because they are added here. In training the decoder reads the targets (teacher forcing).

    Parameters
    ----------
    embedding : Embedding
        Of V ids.
    rnn : RNN, LSTM or GRU
        Unidirectional.
    output : Linear
        From the outputs of the recurrent layer, or of the attention if there is one, to V logits.
    bridge : Linear
        From the vector to ``nn.state_size(rnn)`` values, whose tanh is the initial state.
    attention : Attention, optional
        Reads a memory at each step. Default: none.
    dropout : float, default 0.0
        Dropout of the embedded ids and of the inputs of `output`, in training.
    feed : bool, default False
        Whether the recurrent layer also reads the vector at each step, joined with the embedded id.

    Attributes
    ----------
    params : dict of str to ndarray
        Those of "embedding", "rnn", "output", "bridge" and "attention".

    Raises
    ------
    TypeError, ValueError
        If a part is of a wrong kind, or sizes do not fit.
    """

    def __init__(
        self, embedding: Embedding | FrozenEmbedding, rnn: Recurrent | Frozen, output: Linear | FrozenLinear,
        bridge: Linear | FrozenLinear, attention: Attention | None = None, *, dropout: float = 0.0, feed: bool = False,
    ) -> None:  # fmt: skip
        part("output", output, Linear, FrozenLinear)
        part("bridge", bridge, Linear, FrozenLinear)
        if attention is not None:
            part("attention", attention, Attention)
        reads = width("embedding", embedding) + (bridge.in_features if feed else 0)
        self.embedding: Any = embedding
        self.rnn: Any = checked("rnn", rnn, reads)
        self.output: Any = output
        self.bridge: Any = bridge
        self.attention, self.feed = attention, feed
        if rnn.bidirectional:
            raise ValueError("rnn: expected a unidirectional layer, got a bidirectional one, which needs the end")
        if bridge.out_features != state_size(rnn):
            raise ValueError(f"bridge: expected out_features {state_size(rnn)}, the state's, got {bridge.out_features}")
        if output.in_features != rnn.output_size:
            raise ValueError(f"output: expected in_features {rnn.output_size}, got {output.in_features}")
        if attention is not None and attention.output_size != rnn.output_size:
            raise ValueError(f"attention: expected query_size {rnn.output_size}, got {attention.output_size}")
        self._dropout, self._criterion = Dropout(dropout), SoftmaxCrossEntropy()
        parts = {"embedding": embedding, "rnn": rnn, "output": output, "bridge": bridge, "attention": attention}
        super().__init__(parts, dropout=dropout, feed=feed)

    def loss(
        self, vector: NDArray, ids: NDArray, lengths: NDArray | None = None, memory: NDArray | None = None,
        memory_lengths: NDArray | None = None,
    ) -> tuple[float, int]:  # fmt: skip
        """Return the mean loss of writing `ids` and EOS, and how many ids these are. As `forward`, for inference."""
        inputs, targets, lengths = _shifted(ids, lengths)
        state = split_state(self.rnn, np.tanh(self.bridge(vector)))
        y, _ = self.rnn(self._fed(self.embedding(inputs), vector), state, lengths=lengths)
        if self.attention is not None:
            y = self.attention(y, self.attention.remember(_given(memory), memory_lengths, grads=False), lengths)
        loss = self._criterion.of_output(self.output, pack(y, lengths), pack(targets, lengths), grads=False)
        return loss.value, loss.targets

    def forward(
        self, vector: NDArray, ids: NDArray, lengths: NDArray | None = None, memory: NDArray | None = None,
        memory_lengths: NDArray | None = None, *, rng: Any = None,
    ) -> tuple[float, DecoderTape]:  # fmt: skip
        """Compute the loss of writing `ids` and EOS.

        Parameters
        ----------
        vector : ndarray
            (B, F), the bridge's input.
        ids : ndarray of int
            (U, B), without BOS and EOS.
        lengths : ndarray of int, optional
            (B,), the lengths of the sequences of ids. Default: all are U.
        memory : ndarray, optional
            (S, B, M), zero after its `memory_lengths` (B,): the attention's input.
        rng : seed or numpy.random.Generator, optional
            Source of dropout.

        Returns
        -------
        loss : float
            The mean over ids and EOS, in nats.
        tape : DecoderTape
            What `backward` needs. Its `count` is the number of ids in the mean.
        """
        rng = validate.generator("rng", rng)
        inputs, targets, lengths = _shifted(ids, lengths)
        bridged, bridge_tape = self.bridge.forward(vector)
        start = np.tanh(bridged)
        x, embedding_tape = self.embedding.forward(inputs, rng=rng)
        x, dropped_in = self._dropout.forward(x, rng=rng)
        y, _, rnn_tape = self.rnn.forward(
            self._fed(x, vector), split_state(self.rnn, start), lengths=lengths, rng=rng
        )  # fmt: skip
        attention_tape = None
        if self.attention is not None:
            memory_form = self.attention.remember(_given(memory), memory_lengths)
            y, attention_tape = self.attention.forward(y, memory_form, lengths)
        rows, dropped_out = self._dropout.forward(pack(y, lengths), rng=rng)
        loss = self._criterion.of_output(self.output, rows, pack(targets, lengths), rng=rng)
        return loss.value, DecoderTape(
            loss.targets, bridge_tape, start, embedding_tape, dropped_in, rnn_tape, attention_tape, dropped_out,
            loss.grads, y, lengths,
        )  # fmt: skip

    def backward(self, tape: DecoderTape) -> tuple[NDArray, NDArray | None, dict[str, NDArray]]:
        """Differentiate `forward`. Pure.

        Returns
        -------
        d_vector : ndarray
            (B, F).
        d_memory : ndarray or None
            (S, B, M) with attention.
        params : dict of str to ndarray
            The gradient of each parameter.
        """
        # Copies: what a caller does to these gradients must not reach the tape.
        output = Gradients(tape.output.x, None, {name: g.copy() for name, g in tape.output.params.items()})
        grads: dict[str, Any] = {"output": output}
        d_rows = self._dropout.backward(tape.dropped_out, grads["output"].x).x
        dy, d_memory = unpack(d_rows, tape.like, tape.lengths), None
        if self.attention is not None:
            dy, d_memory, grads["attention"] = self.attention.backward(tape.attention, dy)
        grads["rnn"] = self.rnn.backward(tape.rnn, dy)
        E = self.embedding.output_size
        dx = self._dropout.backward(tape.dropped_in, grads["rnn"].x[..., :E]).x
        grads["embedding"] = self.embedding.backward(tape.embedding, dx)
        d_start = join_state(grads["rnn"].state) * (1 - tape.start * tape.start)
        grads["bridge"] = self.bridge.backward(tape.bridge, d_start)
        d_vector = grads["bridge"].x
        if self.feed:
            d_vector = d_vector + grads["rnn"].x[..., E:].sum(axis=0)
        return d_vector, d_memory, parameters({name: grads[name] for name in self.parts})

    def steps(
        self, vector: NDArray, memory: NDArray | None = None, memory_lengths: NDArray | None = None, width: int = 1
    ) -> DecoderSteps:
        """Return steps for `nn.sample` and `nn.beam_search`, before the first id: `width` rows for each of B inputs.

        Parameters are those of `forward`.
        """
        return DecoderSteps(self, vector, memory, memory_lengths, width)

    def _fed(self, x: NDArray, vector: NDArray) -> NDArray:
        if not self.feed:
            return x
        return np.concatenate([x, np.broadcast_to(vector, (*x.shape[:-1], vector.shape[-1]))], axis=-1)


class DecoderSteps:
    """A decoder that writes one id at a time, with the parameters it was made with; see `fastrnn.nn.Steps`."""

    def __init__(
        self, decoder: Decoder, vector: NDArray, memory: NDArray | None, memory_lengths: NDArray | None, width: int
    ) -> None:
        self.batch, self.width, self._decoder = len(vector), width, decoder
        vector = np.repeat(vector, width, axis=0)
        self._attend: Callable[[NDArray], NDArray] | None = None
        if decoder.attention is not None:
            remembered = decoder.attention.remember(_given(memory), memory_lengths, grads=False)
            self._attend = decoder.attention.packed(remembered)
        self._output, self._stream = packed(decoder.output), packed(decoder.rnn).stream(len(vector))
        self._stream.state = split_state(decoder.rnn, np.tanh(decoder.bridge(vector)))
        self._x = decoder._fed(np.zeros((len(vector), decoder.embedding.output_size), decoder.rnn.dtype), vector)
        self._y = np.empty((len(vector), decoder.rnn.output_size), decoder.rnn.dtype)

    def step(self, ids: NDArray) -> NDArray:
        """Take an id of each row, (batch * width,); return the logits of the next, (batch * width, V)."""
        x = self._decoder.embedding(ids)
        if self._decoder.feed:
            self._x[:, : x.shape[1]] = x
            x = self._x
        y = self._stream.step(x, self._y)
        return self._output(y if self._attend is None else self._attend(y))

    def select(self, parents: NDArray) -> None:
        """Continue each row from a row of its group: parents (batch, width), each in 0..width-1."""
        if self.width > 1:
            self._stream.select((parents + self.width * np.arange(self.batch)[:, None]).reshape(-1))


def _shifted(ids: NDArray, lengths: NDArray | None) -> tuple[NDArray, NDArray, NDArray | None]:
    """Return the inputs, BOS and `ids`, the targets, `ids` and EOS, both (U + 1, B), and their lengths."""
    ids = integers("ids", ids)
    if ids.ndim != 2:
        raise ValueError(f"ids: expected (U, B), got {ids.shape}")
    U, B = ids.shape
    inputs, targets = np.empty((U + 1, B), np.intp), np.empty((U + 1, B), np.intp)
    inputs[0], inputs[1:] = BOS, ids
    targets[:U], targets[U] = ids, EOS
    if lengths is None:
        return inputs, targets, None
    lengths = integers("lengths", lengths)
    same_shape("lengths", lengths, (B,))
    within("lengths", lengths, U + 1)
    targets[lengths, np.arange(B)] = EOS
    return inputs, targets, lengths + 1


def _given(memory: NDArray | None) -> NDArray:
    if memory is None:
        raise ValueError("memory: expected the encoder's outputs, which the attention reads, got None")
    return memory
