"""What X may be: sequences of tokens or of feature vectors, in all the forms in which users hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.validation import check_array, validate_data

from fastrnn.data import Ragged

__all__ = ["ANALYZERS", "COLUMNS", "STEPS", "TOKENS", "Analyzer", "Sequences", "read"]

Analyzer: TypeAlias = str | Callable[[str], Sequence[str]]
Sequences: TypeAlias = Ragged | list[list[str]]  # of feature vectors (n, F), or of tokens

# The forms of X. Of a 2-D array each column is a step with one number, and the number of columns is fixed by `fit`.
TOKENS, STEPS, COLUMNS = "texts or lists of tokens", "arrays of features", "a 2-D array"

FLOATS = [np.float64, np.float32]  # numbers of another dtype become float64

ANALYZERS: dict[str, Callable[[str], Sequence[str]]] = {"char": list, "word": str.split}


def read(estimator: Any, X: Any, analyzer: Analyzer, fitted: tuple[str, int] | None) -> tuple[Sequences, str, int]:
    """Return the sequences of X, in which form they came, and the number of features of each step (0 of tokens).

    Sets `n_features_in_` and `feature_names_in_` where `fitted` is None. Else it is the form and the number of features
    that `fit` had, which X must have, too.
    """
    form, sequences = _read(estimator, X, analyzer, fitted)
    if isinstance(sequences, list):
        width = 0
    else:
        width = sequences.values.shape[1]
        if fitted is not None and fitted[0] != TOKENS and not len(sequences.values):
            width = fitted[1]  # sequences without steps have no width of their own
            sequences = Ragged(np.zeros((0, width)), sequences.starts, sequences.lengths)
    if fitted is None:
        if form != COLUMNS:
            for name in ("feature_names_in_", "n_features_in_"):  # of an earlier fit
                if hasattr(estimator, name):
                    delattr(estimator, name)
            if form == STEPS:
                estimator.n_features_in_ = width
    elif (form == TOKENS) != (fitted[0] == TOKENS):
        raise ValueError(f"X: expected {fitted[0]}, as `fit` had, got {form}")
    elif width != fitted[1]:
        raise ValueError(f"X: expected steps with {fitted[1]} features, as `fit` had, got {width}")
    return sequences, form, width


def _read(estimator: Any, X: Any, analyzer: Analyzer, fitted: tuple[str, int] | None) -> tuple[str, Sequences]:
    if isinstance(X, str):
        raise TypeError("X: expected several sequences, got one text; write [X]")
    if not sparse.issparse(X) and not isinstance(X, (list, tuple)):
        if not hasattr(X, "shape"):
            X = np.asarray(X)
        if len(X.shape) == 1:
            X = list(X)
        elif len(X.shape) == 2 and _has_words(X):
            return TOKENS, [list(map(str, row)) for row in np.asarray(X)]
        elif len(X.shape) == 3:
            X = check_array(X, dtype=FLOATS, allow_nd=True, ensure_2d=False, input_name="X", estimator=estimator)
            N, T, F = X.shape
            return STEPS, _equal(X.reshape(N * T, F), N, T)
        elif len(X.shape) > 3:
            raise ValueError(f"X: expected sequences, or an array (N, T, F) or (N, T), got one of shape {X.shape}")
    if not isinstance(X, (list, tuple)) or _is_table(X):
        if fitted is None or fitted[0] == COLUMNS:
            X = validate_data(estimator, X, reset=fitted is None, dtype=FLOATS)
        else:
            X = check_array(X, dtype=FLOATS, input_name="X", estimator=estimator)
        return COLUMNS, _equal(X.reshape(-1, 1), *X.shape)
    if not X:
        raise ValueError("X: expected a minimum of 1 sequence, got 0 sample(s)")
    # Empty lists alone are of the kind that `fit` had.
    empty = fitted is not None and fitted[0] == TOKENS and not any(map(len, X))
    if empty or isinstance(X[0], str) or any(map(_has_words, X)):
        split = ANALYZERS[analyzer] if isinstance(analyzer, str) else analyzer
        return TOKENS, [_tokens(k, row, split) for k, row in enumerate(X)]
    return STEPS, _features(estimator, X)


def _is_table(X: Sequence[Any]) -> bool:
    """Whether scikit-learn is to read a list: as a 2-D array, or as numbers alone, for which it has an error."""
    if not X or not hasattr(X[0], "__len__"):
        return bool(X)
    if not all(isinstance(row, (list, tuple)) for row in X) or len({len(row) for row in X}) > 1:
        return False
    return len(X[0]) > 0 and not any(hasattr(value, "__len__") for row in X for value in row)


def _equal(values: NDArray, N: int, T: int) -> Ragged:
    """Return N sequences of T steps each."""
    return Ragged(values, np.arange(N) * T, np.full(N, T))


def _has_words(row: Any) -> bool:
    """Whether the first element of a row, or of an array of rows, is a string."""
    if isinstance(row, str):
        return False
    if hasattr(row, "iloc"):  # of pandas
        row = np.asarray(row)
    if isinstance(row, np.ndarray):
        return row.dtype.kind in "UT" or (row.dtype == object and row.size > 0 and isinstance(row.flat[0], str))
    return isinstance(row, (list, tuple)) and len(row) > 0 and isinstance(row[0], str)


def _tokens(k: int, row: Any, split: Callable[[str], Sequence[str]]) -> list[str]:
    try:
        tokens = list(split(row) if isinstance(row, str) else row)
    except TypeError:
        raise TypeError(f"X[{k}]: expected a text or tokens (str), got {type(row).__name__}") from None
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError(f"X[{k}]: expected a text or tokens (str), got a token of type {type(token).__name__}")
    return tokens


def _features(estimator: Any, X: Sequence[Any]) -> Ragged:
    """Join sequences (T_k, F); one of shape (T_k,) is one of single numbers."""
    rows: list[NDArray] = []
    for k, row in enumerate(X):
        try:
            a = np.asarray(row)
        except ValueError:
            raise ValueError(f"X[{k}]: expected an array (T, F), got a list whose parts have several shapes") from None
        if a.dtype.kind not in "buif" and not (a.dtype == object and a.size):
            raise TypeError(f"X[{k}]: expected numbers, got {a.dtype}")
        if a.ndim not in (1, 2):
            raise ValueError(f"X[{k}]: expected an array (T, F), got {a.shape}")
        rows.append(a[:, None] if a.ndim == 1 else a)
    # An empty list has no width.
    width = next((a.shape[1] for a in rows if len(a)), max(a.shape[1] for a in rows))
    for k, a in enumerate(rows):
        if a.shape[1] != width and len(a):
            raise ValueError(f"X[{k}]: expected steps with {width} features, as in other sequences, got {a.shape[1]}")
    values = np.concatenate([a if len(a) else np.zeros((0, width)) for a in rows])
    lengths = np.array([len(a) for a in rows])
    if len(values):
        values = check_array(values, dtype=FLOATS, input_name="X", estimator=estimator)
    return Ragged(values, np.cumsum(lengths) - lengths, lengths)
