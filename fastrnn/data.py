"""Data for training: vocabularies, ragged sequences, batches bucketed by length, chunks of a long text.

A source of batches is used in two ways. `for batch in source` goes through all of it in a fixed order, for evaluation.
`source(rng)` makes one pass for training, in an order that depends only on the state of the generator. For several
processes that train together, `source.shard(index, count)` is the share of one of them: a part of each batch.
"""

from __future__ import annotations

import copy
import gzip
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastrnn import validate

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SPECIALS",
    "UNK",
    "Batch",
    "Batches",
    "Chunks",
    "Dataset",
    "PartlyShown",
    "Ragged",
    "Vocabulary",
    "encode_words",
    "read_blocks",
]

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
PAD, UNK, BOS, EOS = range(4)  # their ids


class Vocabulary:
    """Tokens and their ids: first the special tokens, then the others in the order given.

    Tokens are any strings, such as words, tags or characters. A text is a sequence of its characters.

    Parameters
    ----------
    tokens : iterable of str
        Each once.
    specials : sequence of str, default SPECIALS
        Tokens that stand for no text. With the default, the ids PAD, UNK, BOS and EOS are 0 to 3. If "<unk>" is among
        them, `encode` maps unknown tokens to it. If not, as is usual for tags, an unknown token is an error.

    Raises
    ------
    TypeError, ValueError
        If a token is not a string, or occurs twice.
    """

    def __init__(self, tokens: Iterable[str], specials: Sequence[str] = SPECIALS) -> None:
        self.specials = tuple(specials)
        self.tokens = (*self.specials, *tokens)
        self._ids = {token: k for k, token in enumerate(self.tokens)}
        for token in self.tokens:
            if not isinstance(token, str):
                raise TypeError(f"tokens: expected strings, got {type(token).__name__}")
        if len(self._ids) < len(self.tokens):
            twice = next(token for token, count in Counter(self.tokens).items() if count > 1)
            raise ValueError(f"tokens: expected each once, got {twice!r} more often")
        self.unknown = self._ids["<unk>"] if "<unk>" in self.specials else None

    @classmethod
    def build(
        cls, sequences: Iterable[Iterable[str]], *, min_count: int = 1, max_size: int | None = None,
        specials: Sequence[str] = SPECIALS,
    ) -> Vocabulary:  # fmt: skip
        """Collect the tokens of sequences, the most frequent first; those of equal count in the order of code points.

        Parameters
        ----------
        sequences : iterable of iterables of str
            Sentences as lists of words, or texts, whose tokens are characters.
        min_count : int, default 1
            Rarer tokens are left out. With 2, the training data has unknown tokens, from which a model can learn.
        max_size : int, optional
            The largest number of tokens, special ones included. Default: no limit.
        specials : sequence of str, default SPECIALS
            As for the constructor.
        """
        counts: Counter[str] = Counter()
        for sequence in sequences:
            counts.update(sequence)
        found = sorted((token for token in counts if counts[token] >= min_count), key=lambda t: (-counts[t], t))
        found = [token for token in found if token not in specials]
        return cls(found if max_size is None else found[: max(0, max_size - len(specials))], specials)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and (self.tokens, self.specials) == (other.tokens, other.specials)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Vocabulary of {len(self)}: {', '.join(map(repr, self.tokens[:8]))}{', ...' if len(self) > 8 else ''}"

    def id(self, token: str) -> int:
        """Return a token's id, or that of "<unk>" for a token that is not in the vocabulary.

        Raises
        ------
        KeyError
            If the token is not in the vocabulary, and there is no "<unk>".
        """
        k = self._ids.get(token, self.unknown)
        if k is None:
            raise KeyError(f"token: expected one of the vocabulary, which has no '<unk>', got {token!r}")
        return k

    def encode(self, tokens: Iterable[str]) -> NDArray[np.int32]:
        """Return the ids (n,) of tokens, or of a text's characters. Errors are those of `id`."""
        return np.fromiter(map(self.id, tokens), np.int32)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the tokens of ids, without special tokens except "<unk>". The caller joins them to a text."""
        hidden = {k for k in range(len(self.specials)) if k != self.unknown}
        return [self.tokens[validate.index("ids", k, len(self))] for k in ids if k not in hidden]


def encode_words(
    words: Sequence[str], vocabulary: Vocabulary, characters: Vocabulary, max_characters: int = 16,
    more: Sequence[Sequence[str]] | None = None,
) -> NDArray[np.int32]:  # fmt: skip
    """Return words as `fastrnn.nn.WordEncoder` reads them: each one's id, then the ids of its characters.

    Parameters
    ----------
    words : sequence of str
        (T,).
    vocabulary, characters : Vocabulary
        Of words and of characters. The id 0 of `characters` must be "<pad>".
    max_characters : int, default 16
        C. Of a longer word only C characters are kept: half of them from its beginning, half from its end.
    more : sequence of sequences of str, optional
        For each word n more tokens of `vocabulary`, such as its beginnings and ends. Then the encoder's `words` has
        n + 1 columns.

    Returns
    -------
    ndarray
        (T, 1 + C) or, with `more`, (T, 1 + n + C), padded with 0 after a word's end.

    Raises
    ------
    ValueError
        If `characters` has no "<pad>" at 0, or `more` does not have n tokens for each word.
    """
    for name, given in (("vocabulary", vocabulary), ("characters", characters)):
        if not isinstance(given, Vocabulary):
            raise TypeError(f"{name}: expected a Vocabulary, got {type(given).__name__}")
    max_characters = validate.size("max_characters", max_characters)
    if isinstance(words, np.ndarray) or not all(isinstance(word, str) for word in words):
        raise TypeError("words: expected a sequence of str, got something else in it")
    if characters.tokens[:1] != ("<pad>",):
        raise ValueError(f"characters: expected a vocabulary with '<pad>' at 0, got {characters!r}")
    result = np.zeros((len(words), 1 + max_characters), np.int32)
    result[:, 0] = vocabulary.encode(words)
    for row, word in zip(result, words, strict=True):
        if len(word) > max_characters:
            last = max_characters // 2
            word = word[: max_characters - last] + word[len(word) - last :]
        row[1 : 1 + len(word)] = characters.encode(word)
    if more is None:
        return result
    ids = np.array([vocabulary.encode(tokens) for tokens in more], np.int32).reshape(len(words), -1)
    return np.concatenate([result[:, :1], ids, result[:, 1:]], axis=1)


def read_blocks(path: str | os.PathLike[str]) -> Iterator[list[list[str]]]:
    """Read blocks of lines with tabs between columns and an empty line after each block, the format of treebanks.

    Parameters
    ----------
    path : path-like
        A text in UTF-8. A file whose name ends in .gz is decompressed.

    Yields
    ------
    list of list of str
        The rows of a block, such as the words of a sentence, each as its columns. Lines without a tab, such as
        comments, are left out.
    """
    data = Path(path).read_bytes()
    text = (gzip.decompress(data) if os.fspath(path).endswith(".gz") else data).decode()
    for block in text.replace("\r\n", "\n").strip("\n").split("\n\n"):
        if rows := [line.split("\t") for line in block.split("\n") if "\t" in line]:
            yield rows


class Ragged:
    """Sequences of different lengths, stored as pieces of one long array; pieces may overlap.

    Parameters
    ----------
    values : ndarray
        (n, ...), the steps of all sequences.
    starts, lengths : array_like of int
        (N,): sequence k is ``values[starts[k] : starts[k] + lengths[k]]``.

    Raises
    ------
    ValueError
        If a sequence is not within `values`.
    """

    def __init__(self, values: NDArray, starts: Any, lengths: Any) -> None:
        self.values = np.asarray(values)
        self.starts, self.lengths = validate.integers("starts", starts), validate.integers("lengths", lengths)
        if self.starts.ndim != 1 or self.starts.shape != self.lengths.shape:
            got = f"{self.starts.shape} and {self.lengths.shape}"
            raise ValueError(f"starts, lengths: expected (N,) and (N,), got {got}")
        outside = (self.starts < 0) | (self.lengths < 0) | (self.lengths > len(self.values) - self.starts)
        if outside.any():
            raise ValueError(f"starts, lengths: expected pieces of {len(self.values)} values, got some outside")

    @classmethod
    def of(cls, sequences: Sequence[Any], dtype: DTypeLike | None = None) -> Ragged:
        """Join sequences: each is array_like (T_k, ...), and all but T_k is the same for all of them."""
        try:
            arrays = [np.asarray(sequence, dtype) for sequence in sequences]
        except OverflowError as error:
            raise ValueError(f"sequences: expected numbers that {np.dtype(dtype)} holds, got more ({error})") from None
        filled = [a for a in arrays if a.size] or arrays[:1]  # an empty list has no dtype of its own
        values = np.concatenate(filled) if filled else np.zeros(0, dtype or np.int32)
        lengths = np.array([len(a) for a in arrays], np.intp)
        return cls(values, np.cumsum(lengths) - lengths, lengths)

    @classmethod
    def windows(cls, values: NDArray, length: int, starts: Any) -> Ragged:
        """Return windows of equal length on a series (n, ...). Values are not copied."""
        starts = validate.integers("starts", starts)
        return cls(values, starts, np.full(starts.shape, validate.size("length", length, minimum=0)))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, k: int) -> NDArray:
        return self.values[self.starts[k] : self.starts[k] + self.lengths[k]]

    def __iter__(self) -> Iterator[NDArray]:
        return (self[k] for k in range(len(self)))

    def take(self, rows: Any) -> Ragged:
        """Return some of the sequences, by index or by mask. Values are not copied."""
        rows = _index(rows, len(self))
        return Ragged(self.values, self.starts[rows], self.lengths[rows])

    def pad(self, rows: Any = slice(None)) -> tuple[NDArray, NDArray | None]:
        """Return some sequences side by side, as one padded array.

        Parameters
        ----------
        rows : array_like of int, optional
            (B,), indices of the sequences. Default: all.

        Returns
        -------
        padded : ndarray
            (T, B, ...), where T is the greatest length. Zero after the end of a sequence.
        lengths : ndarray of int or None
            (B,), or None if all are T.
        """
        rows = _index(rows, len(self))
        starts, lengths = self.starts[rows], self.lengths[rows]
        T = int(lengths.max(initial=0))
        steps = np.arange(T)[:, None]
        if (lengths == T).all():
            return self._at(starts + steps), None
        past = steps >= lengths
        padded = self._at(np.where(past, 0, starts + steps))
        padded[past] = 0
        return padded, lengths

    def _at(self, places: NDArray[np.intp]) -> NDArray:
        """values[places]. `take` needs half the time, but copies values that are not contiguous whole."""
        contiguous = self.values.flags.c_contiguous and self.values.flags.aligned
        return self.values.take(places, axis=0) if contiguous else self.values[places]


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples side by side.

    Attributes
    ----------
    x : ndarray
        (T, B, ...) if x are sequences, else (B, ...).
    y : ndarray or None
        Targets: (U, B, ...) if they are sequences, else (B, ...).
    x_lengths, y_lengths : ndarray of int or None
        (B,), if x or y are sequences of different lengths.
    rows : ndarray of int or None
        (B,), the indices of the examples in the data set.
    follows : bool
        Whether each sequence continues that of the batch before. Then it starts from the final state of that batch.
    state : ndarray, tuple of ndarray or None
        The initial state of the recurrent layer; None for zeros. `Trainer` and `evaluate` set it where `follows`.
    weights : ndarray or None
        (B,), the weight of each example in the loss, not negative; None if all are 1. `fastrnn.nn.ManyToOne` and
        `ManyToMany` read them: the loss of a batch is the sum of weighted losses over the number of targets that have a
        weight.
    """

    x: NDArray
    y: NDArray | None = None
    x_lengths: NDArray | None = None
    y_lengths: NDArray | None = None
    rows: NDArray | None = None
    follows: bool = False
    state: Any = None
    weights: NDArray | None = None


class Dataset:
    """Examples, as a column x and a column y.

    Parameters
    ----------
    x, y : Ragged, sequence or ndarray
        A column of N examples. A `Ragged`, or a list of sequences, becomes a padded array in a batch, with time as the
        first axis. Of an ndarray (N, ...), or a list of numbers, a batch has rows. y may be None.
    weights : array_like, optional
        (N,), the weight of each example in the loss. Let them have a mean of about 1, as losses and the effect of the
        learning rate grow with them. Default: all are 1.

    Raises
    ------
    ValueError
        If x, y and weights do not have equally many examples.
    """

    def __init__(self, x: Any, y: Any = None, weights: Any = None) -> None:
        self.x = _column(x)
        self.y = None if y is None else _column(y)
        if self.y is not None and len(self.x) != len(self.y):
            raise ValueError(f"y: expected as many examples as x, {len(self.x)}, got {len(self.y)}")
        self.weights = None if weights is None else validate.as_ndarray("weights", weights)
        if self.weights is not None and self.weights.shape != (len(self.x),):
            raise ValueError(f"weights: expected ({len(self.x)},), one for each example, got {self.weights.shape}")

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Any) -> Dataset:
        """Return some of the examples, by index or by mask."""
        rows = _index(rows, len(self))
        columns = (*self._xy, self.weights)
        return Dataset(*(None if c is None else c.take(rows) if isinstance(c, Ragged) else c[rows] for c in columns))

    def batch(self, rows: NDArray) -> Batch:
        """Return some of the examples, by index, as a batch."""
        rows = _index(rows, len(self))
        (x, x_lengths), (y, y_lengths) = (
            c.pad(rows) if isinstance(c, Ragged) else (None if c is None else c[rows], None) for c in self._xy
        )
        weights = None if self.weights is None else self.weights[rows]
        return Batch(np.asarray(x), y, x_lengths, y_lengths, rows, weights=weights)

    def lengths(self) -> NDArray[np.intp] | None:
        """Return keys that sort examples by the length of x and then of y, or None if neither is ragged."""
        ragged = [c.lengths for c in self._xy if isinstance(c, Ragged)]
        if not ragged:
            return None
        return ragged[0] if len(ragged) == 1 else ragged[0] * (ragged[1].max(initial=0) + 1) + ragged[1]

    @property
    def _xy(self) -> tuple[Any, Any]:
        return self.x, self.y


def _index(rows: Any, count: int) -> Any:
    """Rows by index, of which negative ones count from the end, by mask or by slice."""
    if isinstance(rows, slice):
        return rows
    index = validate.as_ndarray("rows", rows)
    negative = index.dtype.kind == "i" and index.size and index.min() < 0
    return validate.rows("rows", np.where(index < 0, index + count, index) if negative else index, count)


def _sharded(source: Any, index: int, count: int) -> Any:
    """Return a copy of a source with its share of a share."""
    count = validate.size("count", count)
    index, share = validate.index("index", index, count), source._share
    sharded = copy.copy(source)
    sharded._share = slice(share.start + share.step * index, None, share.step * count)
    return sharded


def _column(values: Any) -> Ragged | NDArray:
    if isinstance(values, (Ragged, np.ndarray)):
        return values
    values = list(values)
    return Ragged.of(values) if values and np.ndim(values[0]) else np.asarray(values)


class Batches:
    """A source of batches from a data set; the sequences of a batch have similar lengths.

    Parameters
    ----------
    dataset : Dataset
        N examples.
    size : int
        B, the number of examples in a batch; the last batch may have fewer.
    pool : int, default 50
        In training, examples are shuffled, sorted by length within pools of this many batches, and cut into batches,
        which are shuffled again. With 1 they are not sorted.
    """

    def __init__(self, dataset: Dataset, size: int, *, pool: int = 50) -> None:
        self.dataset, self.size = dataset, validate.size("size", size)
        self.pool = validate.size("pool", pool)
        self._share = slice(0, None, 1)

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.size)

    def shard(self, index: int, count: int) -> Batches:
        """Return the source of every count-th example of each batch, from the example `index` on.

        All shares of a pass draw the same order. Where a batch has no example for this one, a pass of training has None
        in its place.

        Raises
        ------
        TypeError, ValueError, IndexError
            If `index` and `count` are not integers, `count` is less than 1, or `index` not one of 0 to count - 1.
        """
        return _sharded(self, index, count)

    def __iter__(self) -> Iterator[Batch]:
        """Go through all examples, sorted by length."""
        return filter(None, self._cut(self._ordered(np.arange(len(self.dataset)))))

    def __call__(self, rng: np.random.Generator) -> Iterator[Any]:
        """Go through all examples in a random order."""
        rows = rng.permutation(len(self.dataset))
        step = self.pool * self.size
        if self.pool > 1:
            pools = [self._ordered(rows[k : k + step]) for k in range(0, len(rows), step)]
            rows = np.concatenate(pools) if pools else rows
        return self._cut(rows, rng.permutation(len(self)))

    def _ordered(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        lengths = self.dataset.lengths()
        return rows if lengths is None else rows[np.argsort(lengths[rows], kind="stable")]

    def _cut(self, rows: NDArray[np.intp], order: Iterable[int] | None = None) -> Iterator[Batch | None]:
        for k in range(len(self)) if order is None else order:
            some = rows[k * self.size : (k + 1) * self.size][self._share]
            yield self.dataset.batch(some) if len(some) else None


class PartlyShown:
    """A source in which a model reads some of the targets as input, and learns to predict the others.

    Each sequence has a random share of its targets shown, between none and all. With such a model, `fastrnn.nn.fill`
    predicts one step at a time, given the steps already predicted. In evaluation, ``for batch in source``, no targets
    are shown.

    Parameters
    ----------
    batches : Batches
        Batches of sequences x (T, B, n) of ids, and targets y (T, B), which are -100 if there is none.
    ids : ndarray of int
        (K,), the id that is read for each target that is shown.
    column : int
        The column of x in which it is read. Where no target is shown, x has an id there that says so.
    """

    def __init__(self, batches: Batches, ids: NDArray, column: int) -> None:
        self.batches, self.ids, self.column = batches, np.asarray(ids), column
        self._share = slice(0, None, 1)

    def __len__(self) -> int:
        return len(self.batches)

    def shard(self, index: int, count: int) -> PartlyShown:
        """As `Batches.shard`; the same targets are shown as to one process."""
        return _sharded(self, index, count)

    def __iter__(self) -> Iterator[Batch]:
        """Go through all examples, with no target shown."""
        return iter(self.batches.shard(self._share.start, self._share.step))

    def __call__(self, rng: np.random.Generator) -> Iterator[Any]:
        """Go through all examples in a random order, with random targets shown."""
        for batch in self.batches(rng):
            if batch.y is None:
                raise ValueError("batches: expected targets, got none")
            shown = (rng.random(batch.y.shape) < rng.random(batch.y.shape[1])) & (batch.y >= 0)
            x = batch.x.copy()
            x[shown, self.column] = self.ids[batch.y[shown]]
            y = np.where(shown, -100, batch.y)
            if self._share.step > 1:  # the random numbers were drawn for the whole batch
                x, y = x[:, self._share], y[:, self._share]
                parts = {name: getattr(batch, name) for name in ("x_lengths", "y_lengths", "rows")}
                batch = replace(batch, **{name: a[self._share] for name, a in parts.items() if a is not None})
            yield replace(batch, x=x, y=y) if y.shape[1] else None


class Chunks:
    """A source of chunks of a long sequence of ids, such as the characters of a text. Each id's target is the next id.

    The sequence is cut into columns of equal length, which are read side by side. Each chunk starts from the final
    state of the chunk before.

    Parameters
    ----------
    ids : ndarray of int
        (n,). For training n must be at least columns * steps + 1.
    columns : int
        B. Each column starts without context.
    steps : int
        T, the number of steps in a chunk.

    Raises
    ------
    ValueError
        If there are too few ids for one step of each column.
    """

    def __init__(self, ids: NDArray, columns: int, steps: int) -> None:
        self.ids = np.asarray(ids)
        self.columns, self.steps = validate.size("columns", columns), validate.size("steps", steps)
        if self.ids.ndim != 1 or self.ids.size <= self.columns:
            raise ValueError(f"ids: expected (n,) with n of at least {self.columns + 1}, got {self.ids.shape}")
        self._share = slice(0, None, 1)

    def shard(self, index: int, count: int) -> Chunks:
        """Return the source of every count-th column, from the column `index` on; else as `Batches.shard`."""
        return _sharded(self, index, count)

    @classmethod
    def to_evaluate(cls, ids: NDArray, columns: int = 64, steps: int = 128) -> Chunks:
        """Return chunks for evaluation, with fewer columns if `ids` do not fill a chunk of each.

        Each column starts without context, so fewer columns give a better estimate.
        """
        columns, steps = validate.size("columns", columns), validate.size("steps", steps)
        return cls(ids, max(1, min(columns, (len(ids) - 1) // steps)), steps)

    def __len__(self) -> int:
        """Return how many chunks a pass of training has."""
        return (self.ids.size - self._starts()) // self.columns // self.steps

    def __iter__(self) -> Iterator[Batch]:
        """Go through the whole sequence; the last chunk may be shorter."""
        inputs, targets = self._cut(0)
        for t in range(0, len(inputs), self.steps):
            if inputs.shape[1]:
                yield Batch(inputs[t : t + self.steps], targets[t : t + self.steps], follows=t > 0)

    def __call__(self, rng: np.random.Generator) -> Iterator[Any]:
        """Go through it in whole chunks from a random start, so that each pass cuts it at other places."""
        if not len(self):
            least = self.columns * self.steps + 1
            raise ValueError(f"ids: expected at least {least} to train on (columns * steps + 1), got {self.ids.size}")
        inputs, targets = self._cut(int(rng.integers(self._starts())))
        for k in range(len(self)):
            part = slice(k * self.steps, (k + 1) * self.steps)
            yield Batch(inputs[part], targets[part], follows=k > 0) if inputs.shape[1] else None

    def _starts(self) -> int:
        """Return at how many places a pass may start."""
        return max(1, min(self.steps, self.ids.size - self.columns * self.steps))

    def _cut(self, start: int) -> tuple[NDArray, NDArray]:
        ids = self.ids[start:]
        n = (ids.size - 1) // self.columns
        inputs, targets = ids[: n * self.columns], ids[1 : n * self.columns + 1]
        return inputs.reshape(self.columns, n)[self._share].T, targets.reshape(self.columns, n)[self._share].T
