"""Vectors of words: one of the word itself, joined with one of its characters, which a recurrent layer reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.data import UNK
from fastrnn.frozen import Frozen
from fastrnn.layers import Recurrent
from fastrnn.nn.checks import as_rows, integers, part, same_shape
from fastrnn.nn.layers import Dropout, Embedding, FrozenEmbedding, sum_rows
from fastrnn.nn.module import Module, parameters
from fastrnn.nn.states import checked, d_final, final
from fastrnn.params import Gradients

__all__ = ["WordEncoder"]


@dataclass(frozen=True, slots=True)
class WordTape:
    """What `WordEncoder.backward` needs. `which` is the index of the distinct word at each place."""

    shape: tuple[int, ...]
    which: NDArray
    words: Any
    characters: Any
    rnn: Any
    state: Any
    dropout: Any


class WordEncoder(Module):
    """Vectors of words, made of the final states of a recurrent layer that reads the characters of the word.

    With `words`, the word's own vector comes before these states. Each distinct word of a batch is computed only once.

    Parameters
    ----------
    characters : Embedding
        Of characters; the id 0 is padding.
    rnn : RNN, LSTM or GRU
        Reads a word's characters; usually bidirectional.
    words : Embedding, optional
        Of words. If it has `columns`, each word has this many ids, the first of which is its own. Default: only the
        characters are read.
    dropout : float, default 0.0
        Dropout of the characters' vectors, in `forward`.
    word_dropout : float, default 0.0
        Probability with which `forward` replaces the id of a word with that of "<unk>", separately for each
        occurrence. The characters stay, so that the encoder learns to read unknown words.

    Attributes
    ----------
    params : dict of str to ndarray
        Those of "characters", "rnn" and "words".

    Raises
    ------
    TypeError, ValueError
        If a part is of a wrong kind, or sizes do not fit.
    """

    def __init__(
        self, characters: Embedding | FrozenEmbedding, rnn: Recurrent | Frozen,
        words: Embedding | FrozenEmbedding | None = None, *, dropout: float = 0.0, word_dropout: float = 0.0,
    ) -> None:  # fmt: skip
        self.characters: Any = part("characters", characters, Embedding, FrozenEmbedding)
        self.words: Any = None if words is None else part("words", words, Embedding, FrozenEmbedding)
        self.rnn = checked("rnn", rnn, characters.output_size)
        self._dropout = Dropout(dropout)
        self.word_dropout = validate.probability("word_dropout", word_dropout)
        options = {"dropout": dropout, "word_dropout": word_dropout}
        self._ids = 1 if words is None or words.columns is None else words.columns  # before the characters'
        super().__init__({"characters": characters, "rnn": rnn, "words": words}, **options)

    @property
    def output_size(self) -> int:
        """The length of a word's vector."""
        return self.rnn.output_size + (self.words.output_size if self.words is not None else 0)

    def __call__(self, ids: Any) -> NDArray:
        """Return the words' vectors and keep nothing: inference. As `forward`, without dropout and tape."""
        distinct, which, lengths = self._distinct(ids)
        _, state = self.rnn(self.characters(distinct[:, self._ids :].T), lengths=lengths)
        vectors = final(self.rnn, state)
        if self.words is not None:
            vectors = np.concatenate([self.words(self._own(distinct)), vectors], axis=1)
        return vectors[which].reshape(*np.shape(ids)[:-1], self.output_size)

    def forward(self, ids: Any, *, rng: Any = None) -> tuple[NDArray, WordTape]:
        """Return the words' vectors.

        Parameters
        ----------
        ids : array_like of int
            (..., 1 + C), or (..., columns + C), as `fastrnn.data.encode_words` returns them: the ids of a word, then
            those of its characters, padded with 0.
        rng : numpy.random.Generator, optional
            Source of dropout.

        Returns
        -------
        y : ndarray
            (..., output_size).
        tape : WordTape
            What `backward` needs.

        Raises
        ------
        TypeError, ValueError, IndexError
            If `ids` are not integers, have a wrong shape, or are outside an embedding.
        """
        rng = validate.generator("rng", rng)
        if self.word_dropout:
            ids = integers("ids", ids).copy()
            ids[..., 0][rng.random(ids.shape[:-1]) < self.word_dropout] = UNK
        distinct, which, lengths = self._distinct(ids)
        x, characters_tape = self.characters.forward(distinct[:, self._ids :].T, rng=rng)
        x, dropout_tape = self._dropout.forward(x, rng=rng)
        _, state, rnn_tape = self.rnn.forward(x, lengths=lengths, rng=rng)
        vectors, words_tape = final(self.rnn, state), None
        if self.words is not None:
            own, words_tape = self.words.forward(self._own(distinct), rng=rng)
            vectors = np.concatenate([own, vectors], axis=1)
        shape = np.shape(ids)[:-1]
        tape = WordTape(shape, which, words_tape, characters_tape, rnn_tape, state, dropout_tape)
        return vectors[which].reshape(*shape, self.output_size), tape

    def backward(self, tape: WordTape, dy: NDArray) -> Gradients:
        """Differentiate `forward`. Pure. `dy` has y's shape and dtype; of the result, only `params` is not None."""
        dy = validate.array("dy", dy, self.characters.dtype)
        same_shape("dy", dy, (*tape.shape, self.output_size))
        _, d = sum_rows(tape.which, dy.reshape(tape.which.size, self.output_size))  # every distinct word occurs
        own = self.output_size - self.rnn.output_size
        rnn = self.rnn.backward(tape.rnn, None, d_final(self.rnn, tape.state, np.ascontiguousarray(d[:, own:])))
        dx = self._dropout.backward(tape.dropout, rnn.x).x
        grads = {"characters": self.characters.backward(tape.characters, dx), "rnn": rnn}
        if self.words is not None:
            grads["words"] = self.words.backward(tape.words, np.ascontiguousarray(d[:, :own]))
        return Gradients(None, None, parameters(grads))

    def _own(self, distinct: NDArray) -> NDArray:
        """Return the ids that `words` reads."""
        return distinct[:, 0] if self.words.columns is None else distinct[:, : self._ids]

    def _distinct(self, ids: Any) -> tuple[NDArray, NDArray, NDArray]:
        """Return the distinct words (N, 1 + C), C being that of the longest; the index of each word; lengths."""
        ids = integers("ids", ids)
        if ids.ndim == 0 or ids.shape[-1] <= self._ids:
            raise ValueError(f"ids: expected (..., {self._ids} + C), words and their characters, got {ids.shape}")
        table = np.ascontiguousarray(as_rows(ids))
        # Each row as one key of bytes. np.unique(axis=0) would compare them value by value and take 5 times as long.
        keys = table.view(np.dtype((np.void, table.shape[1] * table.itemsize))).reshape(-1)
        _, first, which = np.unique(keys, return_index=True, return_inverse=True)
        distinct = table[first]
        lengths = (distinct[:, self._ids :] != 0).sum(axis=1)
        return distinct[:, : self._ids + max(1, lengths.max(initial=0))], which.reshape(-1), lengths
