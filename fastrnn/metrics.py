"""Scores of predictions: accuracy, perplexity, F1 of tokens and of classes, chrF, RMSE; and a baseline of counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fastrnn import validate
from fastrnn.pages import needs

__all__ = ["Counts", "accuracy", "chrf", "chrf_matrix", "macro_f1", "perplexity", "rmse", "token_f1"]


def accuracy(predictions: Any, targets: Any, ignore: int = -100) -> float:
    """Return the share of predictions that are equal to their targets.

    Parameters
    ----------
    predictions, targets : sequence of int, or of sequences of int
        One class for each example; or for each example the classes of its steps, as `ManyToMany.predict` returns them.
        All steps have the same weight, in whichever example they are.
    ignore : int, default -100
        Targets of this value do not count.

    Returns
    -------
    float
        0 to 1; NaN if no target counts.

    Raises
    ------
    ValueError
        If an example does not have as many predictions as targets.
    """
    p, t = _flat_pair(predictions, targets)
    counts = t != validate.integer("ignore", ignore)
    return float((p[counts] == t[counts]).mean()) if counts.any() else math.nan


def macro_f1(predictions: Any, targets: Any, ignore: int = -100) -> float:
    """Return the mean F1 of the classes that occur among the targets; F1 is the harmonic mean of precision and recall.

    Parameters and errors are those of `accuracy`.
    """
    p, t = _flat_pair(predictions, targets)
    ignore = validate.integer("ignore", ignore)
    p, t = p[t != ignore], t[t != ignore]
    right, guessed = Counter(p[p == t].tolist()), Counter(p.tolist())
    scores = [2 * right[k] / (guessed[k] + count) for k, count in Counter(t.tolist()).items()]
    return math.fsum(scores) / len(scores) if scores else math.nan


def perplexity(loss: float) -> float:
    """Return exp(loss) of a mean cross-entropy in nats: like a choice among this many equally likely ids."""
    return math.exp(loss) if loss < 700 else math.inf


def rmse(predictions: Any, targets: Any) -> float:
    """Return the root of the mean squared error over all targets that are not NaN.

    Parameters
    ----------
    predictions, targets : array_like, or sequence of arrays
        Numbers, of the same shapes.

    Returns
    -------
    float
        NaN if no target counts.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    p, t = _flat_pair(predictions, targets)
    errors = (p.astype(np.float64) - t)[~np.isnan(t)]
    return math.sqrt(float(errors @ errors) / errors.size) if errors.size else math.nan


def token_f1(predictions: Iterable[Sequence[Hashable]], targets: Iterable[Sequence[Hashable]]) -> float:
    """Return the mean over examples of the F1 of their tokens, regardless of order.

    A token counts as right as often as both sequences contain it. Two empty sequences have an F1 of 1.

    Parameters
    ----------
    predictions, targets : iterable of sequences
        Tokens or ids of each example; as many predictions as targets.

    Returns
    -------
    float
        0 to 1; NaN if there are no examples.

    Raises
    ------
    ValueError
        If there are not as many predictions as targets.
    """
    scores = []
    for p, t in zip(predictions, targets, strict=True):
        both = sum((Counter(_plain(p)) & Counter(_plain(t))).values())
        scores.append(2 * both / (len(p) + len(t)) if len(p) + len(t) else 1.0)
    return math.fsum(scores) / len(scores) if scores else math.nan


def chrf(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Return the chrF of a corpus: F2 of n-grams of 1 to 6 characters, computed by sacrebleu.

    Parameters
    ----------
    predictions, targets : sequence of str
        Texts: as many predictions as targets, which are the references.

    Returns
    -------
    float
        0 to 100.

    Raises
    ------
    ImportError
        If sacrebleu is not installed.
    ValueError
        If there are not as many predictions as targets.

    References
    ----------
    M. Popovic, "chrF: character n-gram F-score for automatic MT evaluation" (2015).
    """
    _texts("predictions", predictions)
    _texts("targets", targets)
    if len(predictions) != len(targets):
        raise ValueError(f"predictions: expected as many as targets, {len(targets)}, got {len(predictions)}")
    try:
        import sacrebleu
    except ImportError:
        raise ImportError(needs("chrf", "sacrebleu", "fastrnn[train]", "kit")) from None
    if not targets:
        raise ValueError("targets: expected at least one text, got none")
    return float(sacrebleu.corpus_chrf(list(predictions), [list(targets)]).score)


def chrf_matrix(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Return the chrF of each prediction against each reference.

    The product with weights of the references gives expected scores. The prediction with the highest expected score is
    the consensus of the references (minimum Bayes risk).

    Parameters
    ----------
    predictions, references : sequence of str
        N and M texts.

    Returns
    -------
    ndarray
        (N, M), 0 to 100, equal to those of sacrebleu's sentence_chrf.

    References
    ----------
    S. Kumar, W. Byrne, "Minimum Bayes-risk decoding for statistical machine translation" (2004).
    """
    _texts("predictions", predictions)
    _texts("references", references)
    precision, recall, orders = np.zeros((3, len(predictions), len(references)))
    for n in range(1, 7):
        columns: dict[Any, int] = {}
        p, r = _ngrams(predictions, n, columns), _ngrams(references, n, columns)
        p.resize(len(predictions), len(columns))  # the references' n-grams were not known yet
        both = (p @ r.T).toarray()
        in_p, in_r = np.diff(p.indptr)[:, None], np.diff(r.indptr)
        precision += both / np.maximum(in_p, 1)
        recall += both / np.maximum(in_r, 1)
        orders += (in_p > 0) & (in_r > 0)  # an order counts only if both texts are long enough for it
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    return 100 * 5 * precision * recall / np.maximum(4 * precision + recall, 1e-16)


def _texts(name: str, value: Any) -> None:
    """Check that this is a sequence of texts."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{name}: expected a sequence of str, got another {type(value).__name__}")


def _ngrams(texts: Sequence[str], n: int, columns: dict[Any, int]) -> csr_array:
    """Return a matrix with a row for each text, which has a 1 for each n-gram in it.

    The first, second and later occurrences of an n-gram have columns of their own. So the product of two rows is the
    number of n-grams that both texts have. Spaces do not count. `columns` gives the columns; new ones are added.
    """
    indices: list[int] = []
    ends = [0]
    for text in texts:
        text, seen = "".join(text.split()), Counter[str]()
        for k in range(len(text) - n + 1):
            gram = text[k : k + n]
            indices.append(columns.setdefault((gram, seen[gram]), len(columns)))
            seen[gram] += 1
        ends.append(len(indices))
    return csr_array((np.ones(len(indices)), indices, ends), (len(texts), len(columns)))


class Counts:
    """Naive Bayes with back-off: a baseline without a network that predicts classes from counts.

    Parameters
    ----------
    examples : iterable of (target, chains)
        The examples to count. Those whose target is not among `targets` are left out. A chain is a list of one or more
        hashable keys that the target may depend on, from the general to the special, such as a word's last letter and
        then the word itself. All examples have the same number of chains. Chains but the last are taken as independent
        of each other, and their probabilities are multiplied. The last chain has keys that join what the others are
        about, such as a pair of words, and starts from that product.
    targets : sequence
        The K classes, each once.
    weight : float, default 5.0
        How much a key's counts are smoothed. The probabilities after a key are in proportion to the counts of that key
        plus `weight` times the probabilities after the key before it. Before the first key they are the shares of all
        targets, each counted once more than it occurs.

    Attributes
    ----------
    targets : tuple
    """

    def __init__(self, examples: Iterable[Any], targets: Sequence[Hashable], weight: float = 5.0) -> None:
        self.targets, self.weight = tuple(targets), validate.at_least_zero("weight", weight)
        ids = {target: k for k, target in enumerate(self.targets)}
        if len(ids) < len(self.targets):
            raise ValueError(f"targets: expected each class once, got {self.targets}")
        self._counts: dict[Hashable, Counter[int]] = {}
        every = np.ones(len(ids))
        for target, chains in examples:
            if (k := ids.get(target)) is not None:
                every[k] += 1
                for keys in _keys(chains):
                    for key in keys:
                        self._counts.setdefault(key, Counter())[k] += 1
        self._prior = every / every.sum()

    def __call__(self, chains: Iterable[Iterable[Hashable]]) -> NDArray[np.float64]:
        """Return the targets' probabilities (K,), given an example's chains."""
        *apart, joint = _keys(chains)
        belief = self._prior.copy()
        for keys in apart:
            belief *= self._given(keys, self._prior) / self._prior
        return self._given(joint, belief / belief.sum())

    def accuracy(self, examples: Iterable[Any]) -> float:
        """Return the share of examples whose target is the likeliest given their chains; NaN if there are none."""
        right = [self.targets[int(self(chains).argmax())] == target for target, chains in examples]
        return float(np.mean(right)) if right else math.nan

    def _given(self, keys: Iterable[Hashable], belief: NDArray) -> NDArray:
        for key in keys:
            if seen := self._counts.get(key):
                belief = self.weight * belief
                belief[list(seen)] += list(seen.values())
                belief /= belief.sum()
        return belief


def _keys(chains: Iterable[Iterable[Hashable]]) -> list[list[Hashable]]:
    """Return the keys of each chain, each with the number of the chain and its place in it."""
    return [[(n, depth, key) for depth, key in enumerate(chain)] for n, chain in enumerate(chains)]


def _plain(tokens: Any) -> list[Any]:
    return tokens.tolist() if isinstance(tokens, np.ndarray) else list(tokens)


def _flat_pair(predictions: Any, targets: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return both as flat arrays, after comparing the shapes of each example."""
    p, t = [np.asarray(a) for a in predictions], [np.asarray(a) for a in targets]
    if len(p) != len(t):
        raise ValueError(f"predictions: expected as many as targets, {len(t)}, got {len(p)}")
    for k, (a, b) in enumerate(zip(p, t, strict=True)):
        if a.shape != b.shape:
            raise ValueError(f"predictions[{k}]: expected {b.shape}, the shape of targets[{k}], got {a.shape}")
    if not t:
        return np.zeros(0), np.zeros(0)
    return np.concatenate([a.reshape(-1) for a in p]), np.concatenate([a.reshape(-1) for a in t])
