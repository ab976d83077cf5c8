"""What the estimators share: their parameters, and how a network is built, trained and asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted

from fastrnn import nn, optim, validate
from fastrnn.data import Batches, Dataset, Ragged, Vocabulary, encode_words
from fastrnn.layers import GRU, LSTM, RNN
from fastrnn.nn.patterns import cut
from fastrnn.sklearn.sequences import ANALYZERS, TOKENS, Analyzer, Sequences, read
from fastrnn.train import Trainer, evaluate

__all__ = ["Scale", "SequenceEstimator"]

CELLS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
PREDICTED_AT_ONCE = 256  # sequences
SPECIALS = ("<pad>", "<unk>")
SPELLED_ONLY = 0.15  # share of tokens of which only the characters are read, in training: so unknown ones are learned
EMBEDDING_SCALE = 0.1  # the vectors of rare tokens hardly learn, and should add little noise


@dataclass(frozen=True)
class Scale:
    """Means and standard deviations of columns: numbers of any size become such as a network reads and writes."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray, weights: NDArray | None) -> Scale:
        """Measure columns of (n, F). Where they are constant, and of no rows, the deviation is 1."""
        if not len(values):
            return cls(np.zeros(values.shape[1]), np.ones(values.shape[1]))
        mean = np.average(values.astype(np.float64, copy=False), axis=0, weights=weights)
        deviation = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
        tiny = deviation <= 1e-12 * np.abs(mean)  # a constant, whose deviation is rounding
        return cls(mean, np.where(tiny, 1.0, deviation))

    def down(self, values: NDArray) -> NDArray[np.float32]:
        """Return values with mean 0 and deviation 1."""
        return ((values - self.mean) / self.deviation).astype(np.float32)

    def up(self, values: NDArray) -> NDArray[np.float64]:
        """The inverse of `down`."""
        return values * self.deviation + self.mean


@dataclass(eq=False, repr=False, kw_only=True)
class SequenceEstimator(BaseEstimator):
    """The base class. Its parameters are described at `SequenceClassifier`."""

    cell: str = "lstm"
    hidden_size: int = 64
    num_layers: int = 1
    bidirectional: bool = True
    dropout: float = 0.0
    analyzer: Analyzer = "char"
    embedding_size: int = 32
    spelling: bool = False
    min_count: int = 1
    max_features: int | None = None
    standardize: bool = True
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    max_iter: int = 20
    batch_size: int = 32
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 5
    warm_start: bool = False
    random_state: Any = None
    verbose: bool = False

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags

    # ---- fit ---------------------------------------------------------------------------------------------------------

    def _begin(self, X: Any, y: Any) -> tuple[Sequences, bool]:
        """Check the parameters, X, and that there is a y; return the sequences, and whether there is a model to go on
        with.
        """
        self._check_parameters()
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        goes_on = self.warm_start and hasattr(self, "model_")
        sequences, form, width = read(self, X, self.analyzer, self._fitted if goes_on else None)
        check_consistent_length(sequences, y)
        if not goes_on:
            self._fitted: tuple[str, int] = form, width
        return sequences, goes_on

    def _train(
        self, sequences: Sequences, y: Any, weights: NDArray | None, goes_on: bool, outputs: int, loss: str,
        classes: NDArray | None = None,
    ) -> None:  # fmt: skip
        """Train a network with so many outputs on the rows that have a weight.

        y is a column of targets for `Dataset`; `classes` are those of the rows, so that the rows for early stopping
        have as many of each.
        """
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        if weights is not None:
            kept = np.flatnonzero(weights)
            if not len(kept):
                raise ValueError("sample_weight: expected some that are not zero, with class_weight, got zeros only")
            sequences, y = _those(sequences, kept), _those(y, kept)
            classes = None if classes is None else classes[kept]
            weights = weights[kept] / weights[kept].mean()
        if not goes_on:
            self._learn_inputs(sequences, weights)
            self.model_ = self._network(outputs, loss, np.random.default_rng(seed))
        data = Dataset(self._encoded(sequences), y, weights)
        self.validation_losses_: list[float] = []
        valid, rows = None, np.arange(len(data))
        if self.early_stopping:
            rows, held_out = train_test_split(
                rows, test_size=self.validation_fraction, random_state=seed, stratify=classes
            )
            valid = self._scorer(data.take(np.sort(held_out)))
        trainer = Trainer(
            self.model_,
            optim.AdamW(self.model_.params, self.learning_rate, weight_decay=self.weight_decay),
            Batches(data.take(np.sort(rows)), self.batch_size),
            valid,
            epochs=self.max_iter,
            patience=self.n_iter_no_change if self.early_stopping else None,
            schedule=optim.warmup_cosine(),
            seed=seed,
        )
        trainer.fit(progress=bool(self.verbose))
        if trainer.interrupted:
            raise KeyboardInterrupt
        self.n_iter_ = len(self.validation_losses_) or self.max_iter

    def _learn_inputs(self, sequences: Sequences, weights: NDArray | None) -> None:
        """Collect the vocabulary of tokens, or measure the features."""
        for name in ("vocabulary_", "characters_"):  # of an earlier fit
            if hasattr(self, name):
                delattr(self, name)
        if isinstance(sequences, list):
            most = None if self.max_features is None else self.max_features + len(SPECIALS)
            self.vocabulary_ = Vocabulary.build(sequences, min_count=self.min_count, max_size=most, specials=SPECIALS)
            if self.spelling:
                letters = (token for tokens in sequences for token in tokens)
                self.characters_ = Vocabulary.build(letters, specials=SPECIALS)
            return
        F = sequences.values.shape[1]
        self._scale = Scale(np.zeros(F), np.ones(F))
        if self.standardize:
            of_steps = None if weights is None else np.repeat(weights, sequences.lengths)
            self._scale = Scale.of(sequences.values, of_steps)

    def _network(self, outputs: int, loss: str, rng: np.random.Generator) -> nn.Model:
        form, width = self._fitted
        embedding: Any = None
        if form == TOKENS:
            embedding = self._embedding(rng)
            width = embedding.output_size
        options = {"bidirectional": bool(self.bidirectional), "dropout": self.dropout, "rng": rng}
        rnn = CELLS[self.cell](width, self.hidden_size, self.num_layers, **options)
        if self.cell == "lstm":
            nn.set_forget_bias(rnn)
        model = self._pattern(rnn, nn.Linear(rnn.output_size, outputs, rng=rng), embedding, loss)
        if embedding is not None:
            model.vocabularies["tokens"] = self.vocabulary_
            if self.spelling:
                model.vocabularies["characters"] = self.characters_
        return model

    def _embedding(self, rng: np.random.Generator) -> nn.Embedding | nn.WordEncoder:
        size = self.embedding_size
        tokens = nn.Embedding(len(self.vocabulary_), size, scale=EMBEDDING_SCALE, rng=rng)
        if not self.spelling:
            return tokens
        characters = nn.Embedding(len(self.characters_), size, scale=EMBEDDING_SCALE, rng=rng)
        rnn = CELLS[self.cell](size, size, bidirectional=True, rng=rng)
        return nn.WordEncoder(characters, rnn, tokens, word_dropout=SPELLED_ONLY)

    def _pattern(self, rnn: Any, output: nn.Linear, embedding: Any, loss: str) -> nn.Model:
        raise NotImplementedError

    def _scorer(self, data: Dataset) -> Any:
        """Return a function that gives the loss of held-out rows, and notes it in `validation_losses_`."""
        batches = Batches(data, PREDICTED_AT_ONCE)

        def score(model: nn.Model) -> float:
            self.validation_losses_.append(evaluate(model, batches))
            return self.validation_losses_[-1]

        return score

    def _weights(self, sequences: Any, sample_weight: Any) -> NDArray[np.float64] | None:
        if sample_weight is None:
            return None
        weights: NDArray = _check_sample_weight(sample_weight, sequences, dtype=np.float64)
        if (weights < 0).any():
            raise ValueError(f"sample_weight: expected numbers of at least 0, got {weights.min()}")
        return weights

    def _check_parameters(self) -> None:
        validate.choice("cell", self.cell, tuple(CELLS))
        for name in (
            "hidden_size", "num_layers", "embedding_size", "min_count", "max_iter", "batch_size", "n_iter_no_change",
        ):  # fmt: skip
            validate.size(name, getattr(self, name))
        for name in ("bidirectional", "spelling", "standardize", "early_stopping", "warm_start"):
            validate.flag(name, getattr(self, name))
        validate.probability("dropout", self.dropout)
        if not validate.probability("validation_fraction", self.validation_fraction):
            raise ValueError("validation_fraction: expected a number between 0 and 1, got 0")
        for name in ("learning_rate", "weight_decay"):
            validate.at_least_zero(name, getattr(self, name))
        if not callable(self.analyzer):
            validate.choice("analyzer", self.analyzer, tuple(ANALYZERS))
        if self.max_features is not None:
            validate.size("max_features", self.max_features)

    # ---- predict -----------------------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> list[NDArray[np.float32]]:
        """Return the network's outputs for each sequence: (K,), or (T_k, K) of each of its steps."""
        check_is_fitted(self)
        sequences, _, _ = read(self, X, self.analyzer, self._fitted)
        answers: list[Any] = [None] * len(sequences)
        for batch in Batches(Dataset(self._encoded(sequences)), PREDICTED_AT_ONCE):
            outputs = self.model_(batch.x, batch.x_lengths)  # type: ignore[operator]
            of_rows = cut(outputs[0], batch) if isinstance(outputs, tuple) else outputs
            assert batch.rows is not None
            for row, output in zip(batch.rows, of_rows, strict=True):
                answers[row] = output
        return answers

    def _encoded(self, sequences: Sequences) -> Ragged:
        if isinstance(sequences, list):
            encode = self.vocabulary_.encode
            if hasattr(self, "characters_"):
                encode = partial(encode_words, vocabulary=self.vocabulary_, characters=self.characters_)
            return Ragged.of([encode(tokens) for tokens in sequences])
        return Ragged(self._scale.down(sequences.values), sequences.starts, sequences.lengths)


def _those(column: Any, rows: NDArray[np.intp]) -> Any:
    """Return some rows of sequences or of targets."""
    if isinstance(column, np.ndarray):
        return column[rows]
    if len(rows) == len(column):
        return column
    kept = [column[row] for row in rows]
    return Ragged.of(kept) if isinstance(column, Ragged) else kept
