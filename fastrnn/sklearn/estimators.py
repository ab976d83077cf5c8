"""The estimators: a class or numbers for a sequence, and a label for each of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d

from fastrnn import nn, validate
from fastrnn.data import Ragged
from fastrnn.nn.pooling import POOLINGS
from fastrnn.sklearn.base import Scale, SequenceEstimator

__all__ = ["SequenceClassifier", "SequenceRegressor", "SequenceTagger"]


@dataclass(eq=False, repr=False, kw_only=True)
class SequenceClassifier(ClassifierMixin, SequenceEstimator):
    """A class for each sequence: a recurrent network whose outputs over time are pooled.

    A sequence is one of these, and X has all its sequences in one of these forms:

    - a text (str), which `analyzer` splits into tokens, or a list of tokens (str). `fit` collects the vocabulary;
      tokens that are not in it are read as one unknown token;
    - an array (T_k, F) of features, or (T_k,) where each step has one number. X can also be one array (N, T, F);
    - a row of an array or a DataFrame (N, T): T steps with one number each. As scikit-learn has it, X must have the
      same number of columns later; a list of arrays (T_k,) may have others.

    A sequence may be empty. NaN and infinity are errors.

    Parameters
    ----------
    cell : {"lstm", "gru", "rnn"}, default "lstm"
        The recurrent layer.
    hidden_size : int, default 64
        Its number of units, in each direction.
    num_layers : int, default 1
        How many recurrent layers lie on each other.
    bidirectional : bool, default True
        Whether sequences are read from both ends.
    dropout : float, default 0.0
        Dropout of the inputs of all layers, in training.
    analyzer : {"char", "word"} or callable, default "char"
        How a text becomes tokens: its characters, its words between blanks, or what a function of the text returns.
        Lists of tokens are taken as they are.
    embedding_size : int, default 32
        The length of the vector that each token is given.
    spelling : bool, default False
        Whether tokens are also read by their characters (16 at most), by a recurrent layer of their own. It helps where
        tokens are words, many of which are rare or unknown.
    min_count : int, default 1
        Tokens that occur less often are not in the vocabulary. With 2, training has unknown tokens to learn from.
    max_features : int, optional
        The vocabulary has this many tokens, the most frequent ones. Default: all.
    standardize : bool, default True
        Whether features are brought to mean 0 and deviation 1, as measured over all steps in `fit`.
    learning_rate : float, default 3e-3
        The highest of the training. It rises at the beginning, and falls along half a cosine until the end.
    weight_decay : float, default 0.01
        That of AdamW.
    max_iter : int, default 20
        Passes through the data.
    batch_size : int, default 32
        Sequences in a step of training.
    early_stopping : bool, default False
        Whether part of the data is held out, training ends when the loss there no longer falls, and the parameters that
        had the lowest are kept.
    validation_fraction : float, default 0.1
        The share that is held out; of a classifier as much of each class.
    n_iter_no_change : int, default 5
        With `early_stopping`: after how many passes without a lower loss training ends.
    warm_start : bool, default False
        Whether `fit` goes on from the parameters, vocabulary and classes of the last fit.
    random_state : int, RandomState instance or None, default None
        Source of all random numbers. The same seed gives the same bits, with any number of threads.
    verbose : bool, default False
        Whether progress is shown on stderr.
    pooling : {"max", "mean", "last"}, default "max"
        How the outputs over time become one vector: their maximum, their mean, or the final state.
    class_weight : dict, "balanced" or None, default None
        Weights of classes, which multiply those of the rows. "balanced": inverse to their frequency.

    Attributes
    ----------
    classes_ : ndarray
        (K,), the classes in order.
    n_features_in_ : int
        The number of features of a step, or of columns of a 2-D X. Not there for tokens.
    feature_names_in_ : ndarray
        The names of the columns, if X was a DataFrame.
    vocabulary_ : fastrnn.data.Vocabulary
        The tokens, if X had tokens.
    characters_ : fastrnn.data.Vocabulary
        Their characters, with `spelling`.
    model_ : fastrnn.nn.ManyToOne
        The network, with the vocabulary: it can be saved, frozen in fewer bits, or run as a stream. Its outputs are the
        logits of the classes. It reads features after they were standardised.
    n_iter_ : int
        How many passes were made.
    validation_losses_ : list of float
        The loss on what was held out, after each pass.

    Examples
    --------
    >>> classifier = SequenceClassifier(hidden_size=8, analyzer="word", random_state=0)
    >>> classifier.fit(["good film", "bad film", "very good", "very bad"] * 10, ["yes", "no"] * 20)
    SequenceClassifier(analyzer='word', hidden_size=8, random_state=0)
    >>> classifier.predict(["a good film"])
    array(['yes'], dtype='<U3')
    """

    pooling: str = "max"
    class_weight: Mapping[Any, float] | str | None = None

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceClassifier:
        """Train the network.

        Parameters
        ----------
        X : sequences
            N of them; see the class.
        y : array_like
            (N,), their classes: numbers or strings.
        sample_weight : array_like, optional
            (N,), the weight of each row in the loss; a row of weight 0 is not read. Default: all are 1.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a parameter or an argument is not as described.
        """
        sequences, goes_on = self._begin(X, y)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        if not goes_on:
            self.classes_: NDArray = np.unique(y)
        codes = _codes(y, self.classes_)
        weights = self._weights(sequences, sample_weight)
        if self.class_weight is not None:
            weights = compute_sample_weight(self.class_weight, y) * (1.0 if weights is None else weights)
        self._train(sequences, codes, weights, goes_on, len(self.classes_), "cross_entropy", codes)
        return self

    def predict(self, X: Any) -> NDArray:
        """Return the likeliest class of each sequence, (N,).

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        TypeError, ValueError
            If X is not as that of `fit`.
        """
        likeliest = self._logits(X).argmax(axis=1)
        return self.classes_[likeliest]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probabilities of the classes, (N, K). Errors are those of `predict`."""
        return nn.softmax(self._logits(X))

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the logarithms of the probabilities, (N, K), also of tiny ones. Errors are those of `predict`."""
        return nn.log_softmax(self._logits(X))

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the logits, (N, K), or with two classes the second's less the first's, (N,).

        Errors are those of `predict`.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def _logits(self, X: Any) -> NDArray[np.float64]:
        return np.stack(self._outputs(X)).astype(np.float64)

    def _pattern(self, rnn: Any, output: nn.Linear, embedding: Any, loss: str) -> nn.Model:
        return nn.ManyToOne(rnn, output, embedding, pooling=self.pooling, dropout=self.dropout, loss=loss)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        validate.choice("pooling", self.pooling, POOLINGS)


@dataclass(eq=False, repr=False, kw_only=True)
class SequenceRegressor(RegressorMixin, SequenceEstimator):
    """One or several numbers for each sequence: a recurrent network whose outputs over time are pooled.

    What a sequence is, and the parameters, are as for `SequenceClassifier`, which also has `class_weight`. Targets are
    brought to mean 0 and deviation 1 for the training, and predictions back; the loss is the squared error.

    Parameters
    ----------
    cell, hidden_size, num_layers, bidirectional, dropout, pooling
        The network; see `SequenceClassifier`.
    analyzer, embedding_size, spelling, min_count, max_features, standardize
        The inputs.
    learning_rate, weight_decay, max_iter, batch_size
        The training.
    early_stopping, validation_fraction, n_iter_no_change, warm_start, random_state, verbose
        More of the training.

    Attributes
    ----------
    n_features_in_, feature_names_in_, vocabulary_, characters_, n_iter_, validation_losses_
        As for `SequenceClassifier`.
    model_ : fastrnn.nn.ManyToOne
        The network. Its outputs are the targets after they were brought to mean 0 and deviation 1.

    Examples
    --------
    >>> series = [np.arange(n, dtype=float) for n in range(2, 40)]
    >>> regressor = SequenceRegressor(hidden_size=16, max_iter=100, random_state=0)
    >>> regressor.fit(series, [s.sum() for s in series]).score(series, [s.sum() for s in series]) > 0.9
    True
    """

    pooling: str = "max"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceRegressor:
        """Train the network.

        Parameters
        ----------
        X : sequences
            N of them; see `SequenceClassifier`.
        y : array_like
            (N,) or (N, K), numbers.
        sample_weight : array_like, optional
            (N,), the weight of each row in the loss; a row of weight 0 is not read. Default: all are 1.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a parameter or an argument is not as described.
        """
        sequences, goes_on = self._begin(X, y)
        y = check_array(y, ensure_2d=False, allow_nd=True, dtype=np.float64, input_name="y", estimator=self)
        if y.ndim > 2 or 0 in y.shape[1:]:
            raise ValueError(f"y: expected (N,) or (N, K), got {y.shape}")
        shape, columns = y.shape[1:], y.reshape(len(y), -1)
        if goes_on and shape != self._target_shape:
            raise ValueError(f"y: expected rows of shape {self._target_shape}, as those before, got {shape}")
        weights = self._weights(sequences, sample_weight)
        if not goes_on:
            self._target_shape: tuple[int, ...] = shape
            self._target_scale = Scale.of(columns, weights)
        self._train(sequences, self._target_scale.down(columns), weights, goes_on, columns.shape[1], "mse")
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return the prediction for each sequence, (N,) or (N, K) as y was.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        TypeError, ValueError
            If X is not as that of `fit`.
        """
        outputs = np.stack(self._outputs(X))
        return self._target_scale.up(outputs).reshape(-1, *self._target_shape)

    def _pattern(self, rnn: Any, output: nn.Linear, embedding: Any, loss: str) -> nn.Model:
        return nn.ManyToOne(rnn, output, embedding, pooling=self.pooling, dropout=self.dropout, loss=loss)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        validate.choice("pooling", self.pooling, POOLINGS)


@dataclass(eq=False, repr=False, kw_only=True)
class SequenceTagger(SequenceEstimator):
    """A label for each step of each sequence, such as the part of speech of each word.

    What a sequence is, and the parameters, are as for `SequenceClassifier`, which also has `pooling` and
    `class_weight`. A text has a label for each token that `analyzer` makes of it.

    Parameters
    ----------
    cell, hidden_size, num_layers, bidirectional, dropout
        The network; see `SequenceClassifier`.
    analyzer, embedding_size, spelling, min_count, max_features, standardize
        The inputs.
    learning_rate, weight_decay, max_iter, batch_size
        The training.
    early_stopping, validation_fraction, n_iter_no_change, warm_start, random_state, verbose
        More of the training.

    Attributes
    ----------
    classes_ : ndarray
        (K,), the labels in order.
    n_features_in_, feature_names_in_, vocabulary_, characters_, n_iter_, validation_losses_
        As for `SequenceClassifier`.
    model_ : fastrnn.nn.ManyToMany
        The network. Its outputs are the logits of the labels of each step.

    Examples
    --------
    >>> tagger = SequenceTagger(hidden_size=16, max_iter=40, random_state=0)
    >>> tagger.fit([["we", "work"], ["my", "work"]] * 20, [["PRON", "VERB"], ["DET", "NOUN"]] * 20)
    SequenceTagger(hidden_size=16, max_iter=40, random_state=0)
    >>> tagger.predict([["my", "work"]])[0]
    array(['DET', 'NOUN'], dtype='<U4')
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceTagger:
        """Train the network.

        Parameters
        ----------
        X : sequences
            N of them; see `SequenceClassifier`.
        y : sequence of sequences
            N of them: y[k] has a label, a number or a string, for each step of X[k].
        sample_weight : array_like, optional
            (N,), the weight of each sequence: of the loss at each of its steps. One of weight 0 is not read. Default:
            all are 1.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a parameter or an argument is not as described, or there is no label at all.
        """
        sequences, goes_on = self._begin(X, y)
        labels, lengths = _labels(y, [len(sequence) for sequence in sequences])
        if not len(labels):
            raise ValueError("y: expected at least one label, got none")
        if not goes_on:
            self.classes_: NDArray = np.unique(labels)
        weights = self._weights(sequences, sample_weight)
        targets = Ragged(_codes(labels, self.classes_), np.cumsum(lengths) - lengths, lengths)
        self._train(sequences, targets, weights, goes_on, len(self.classes_), "cross_entropy")
        return self

    def predict(self, X: Any) -> NDArray[np.object_]:
        """Return the likeliest labels: (N,) arrays, each (T_k,) with a label for each step.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        TypeError, ValueError
            If X is not as that of `fit`.
        """
        likeliest = [logits.argmax(axis=-1) for logits in self._outputs(X)]
        return _apart([self.classes_[ids] for ids in likeliest])

    def predict_proba(self, X: Any) -> NDArray[np.object_]:
        """Return the labels' probabilities: (N,) arrays, each (T_k, K). Errors are those of `predict`."""
        return _apart([nn.softmax(logits.astype(np.float64)) for logits in self._outputs(X)])

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of right labels, of all steps of all sequences.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        """
        predicted = self.predict(X)
        check_consistent_length(predicted, y)
        labels, lengths = _labels(y, list(map(len, predicted)))
        weights = self._weights(predicted, sample_weight)
        of_steps = None if weights is None else np.repeat(weights, lengths)
        return float(accuracy_score(labels, np.concatenate(list(predicted)), sample_weight=of_steps))

    def _pattern(self, rnn: Any, output: nn.Linear, embedding: Any, loss: str) -> nn.Model:
        return nn.ManyToMany(rnn, output, embedding, dropout=self.dropout, loss=loss)


def _codes(y: NDArray, classes: NDArray) -> NDArray[np.intp]:
    """Return the places of labels among the classes, which with `warm_start` are those of an earlier fit."""
    if unknown := np.setdiff1d(y, classes).tolist():
        raise ValueError(f"y: expected classes of the fit before, as warm_start is set, got {unknown[0]!r} too")
    return np.searchsorted(classes, y)


def _labels(y: Any, steps: list[int]) -> tuple[NDArray, NDArray[np.intp]]:
    """Return the labels of all sequences, joined, and how many each has, which must be its steps."""
    rows = []
    for k, (row, expected) in enumerate(zip(y if hasattr(y, "__iter__") else np.asarray(y), steps, strict=True)):
        a = np.asarray(row)
        if a.ndim != 1:
            got = repr(row) if a.ndim == 0 else f"shape {a.shape}"
            raise ValueError(f"y[{k}]: expected a sequence of labels, one for each step of X[{k}], got {got}")
        if len(a) != expected:
            raise ValueError(f"y[{k}]: expected {expected} labels, one for each step of X[{k}], got {len(a)}")
        rows.append(a)
    filled = [a for a in rows if a.size]
    labels = np.concatenate(filled) if filled else np.zeros(0)
    check_array(labels, ensure_2d=False, ensure_min_samples=0, dtype=None, input_name="y")
    return labels, np.array(steps, np.intp)


def _apart(arrays: list[NDArray]) -> NDArray[np.object_]:
    """Return an array of arrays, also where these have equal shapes."""
    result = np.empty(len(arrays), object)
    result[:] = arrays
    return result
