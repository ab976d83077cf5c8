"""How good answers are: accuracy, perplexity, F1 of tokens and of classes, chrF, RMSE; and counts as a baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

__all__ = ["Counts", "accuracy", "chrf", "chrf_matrix", "macro_f1", "perplexity", "rmse", "token_f1"]


def accuracy(predictions: Any, targets: Any, ignore: int = -100) -> float:
    """Return the share of predictions that are right.

    Parameters
    ----------
    predictions, targets : sequence of int, or of sequences of int
        Classes; or for each example those of its steps, as `ManyToMany.predict` gives them. Steps count alike, whatever
        example they are in.
    ignore : int, default -100
        Targets of this value do not count.

    Returns
    -------
    float
        0 to 1; NaN where no target counts.

    Raises
    ------
    ValueError
        If an example has another number of predictions than of targets.
    """
    p, t = _flat_pair(predictions, targets)
    counts = t != ignore
    return float((p[counts] == t[counts]).mean()) if counts.any() else math.nan


def macro_f1(predictions: Any, targets: Any, ignore: int = -100) -> float:
    """Return the mean over the classes among the targets of F1, the harmonic mean of precision and recall.

    Parameters and errors are those of `accuracy`.
    """
    p, t = _flat_pair(predictions, targets)
    p, t = p[t != ignore], t[t != ignore]
    right, guessed = Counter(p[p == t].tolist()), Counter(p.tolist())
    scores = [2 * right[k] / (guessed[k] + count) for k, count in Counter(t.tolist()).items()]
    return math.fsum(scores) / len(scores) if scores else math.nan


def perplexity(loss: float) -> float:
    """Return exp of a mean cross-entropy in nats: among how many equally likely choices the model hesitates."""
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
        NaN where no target counts.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    p, t = _flat_pair(predictions, targets)
    errors = (p.astype(np.float64) - t)[~np.isnan(t)]
    return math.sqrt(float(errors @ errors) / errors.size) if errors.size else math.nan


def token_f1(predictions: Iterable[Sequence[Hashable]], targets: Iterable[Sequence[Hashable]]) -> float:
    """Return the mean over examples of F1 of tokens, whatever their order.

    Precision and recall count each token as often as both have it. Two empty sequences agree: 1.

    Parameters
    ----------
    predictions, targets : iterable of sequences
        Of tokens or ids, equally many.

    Returns
    -------
    float
        0 to 1; NaN where there are no examples.

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
    """Return the corpus's chrF: F2 of n-grams of 1 to 6 characters, by sacrebleu.

    Parameters
    ----------
    predictions, targets : sequence of str
        Texts, equally many, one reference for each.

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
    if len(predictions) != len(targets):
        raise ValueError(f"predictions: expected as many as targets, {len(targets)}, got {len(predictions)}")
    try:
        import sacrebleu
    except ImportError:
        raise ImportError("chrf: needs sacrebleu: pip install fastrnn[train]") from None
    return float(sacrebleu.corpus_chrf(list(predictions), [list(targets)]).score)


def chrf_matrix(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Return the chrF of each prediction against each reference, all of them at once.

    Rows times weights of the references are expected scores: the prediction for which it is highest is the consensus of
    the references (minimum Bayes risk).

    Parameters
    ----------
    predictions, references : sequence of str
        N and M texts.

    Returns
    -------
    ndarray
        (N, M), 0 to 100, as sacrebleu's sentence_chrf.

    References
    ----------
    S. Kumar, W. Byrne, "Minimum Bayes-risk decoding for statistical machine translation" (2004).
    """
    precision, recall, orders = np.zeros((3, len(predictions), len(references)))
    for n in range(1, 7):
        columns: dict[Any, int] = {}
        p, r = _ngrams(predictions, n, columns), _ngrams(references, n, columns)
        p.resize(len(predictions), len(columns))  # the references' n-grams were not known yet
        both = (p @ r.T).toarray()
        in_p, in_r = np.diff(p.indptr)[:, None], np.diff(r.indptr)
        precision += both / np.maximum(in_p, 1)
        recall += both / np.maximum(in_r, 1)
        orders += (in_p > 0) & (in_r > 0)  # orders that either is too short for do not count
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    return 100 * 5 * precision * recall / np.maximum(4 * precision + recall, 1e-16)


def _ngrams(texts: Sequence[str], n: int, columns: dict[Any, int]) -> csr_array:
    """Which n-grams each text has, a row each: a 1 for the first of a kind, one for the second, and so on.

    So products of rows are numbers of n-grams that both have. Spaces do not count. `columns` grows.
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
    """Naive Bayes that backs off: classes as they were counted, a baseline without a network.

    Parameters
    ----------
    examples : iterable of (target, chains)
        What is counted; targets that are not among `targets` are left out. All examples have as many chains. A chain
        has what the target may depend on as hashable keys, at least one, from the general to the special: say a word's
        last letter, and then the word. The last chain is of all that the others are of, such as pairs of words, and
        begins with what these give, taken for independent.
    targets : sequence
        The K classes, each once.
    weight : float, default 5.0
        What is believed after a key is what was counted for it, and `weight` times what the key before it gives. The
        first key follows the shares of all targets, each of them counted once more.

    Attributes
    ----------
    targets : tuple
    """

    def __init__(self, examples: Iterable[Any], targets: Sequence[Hashable], weight: float = 5.0) -> None:
        self.targets, self.weight = tuple(targets), weight
        ids = {target: k for k, target in enumerate(self.targets)}
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
        """Return the share of examples whose target is the likeliest given their chains; NaN where there are none."""
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
    """Each chain's keys, marked with its number and their place in it."""
    return [[(n, depth, key) for depth, key in enumerate(chain)] for n, chain in enumerate(chains)]


def _plain(tokens: Any) -> list[Any]:
    return tokens.tolist() if isinstance(tokens, np.ndarray) else list(tokens)


def _flat_pair(predictions: Any, targets: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as flat arrays, after each example's shapes were compared."""
    p, t = [np.asarray(a) for a in predictions], [np.asarray(a) for a in targets]
    if len(p) != len(t):
        raise ValueError(f"predictions: expected as many as targets, {len(t)}, got {len(p)}")
    for k, (a, b) in enumerate(zip(p, t, strict=True)):
        if a.shape != b.shape:
            raise ValueError(f"predictions[{k}]: expected {b.shape}, the shape of targets[{k}], got {a.shape}")
    if not t:
        return np.zeros(0), np.zeros(0)
    return np.concatenate([a.reshape(-1) for a in p]), np.concatenate([a.reshape(-1) for a in t])
