"""How good answers are: accuracy, also of counts, perplexity, F1 of tokens and of classes, chrF, RMSE."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["accuracy", "accuracy_of_counts", "chrf", "macro_f1", "perplexity", "rmse", "token_f1"]


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


def accuracy_of_counts(train: Iterable[Any], test: Iterable[Any], weight: float = 5.0) -> float:
    """Return the accuracy of counts, as a baseline without a network: naive Bayes that backs off.

    Parameters
    ----------
    train, test : iterable of (target, chains)
        Examples, all with as many chains. A chain has what the target may depend on as hashable keys, at least one,
        from the general to the special: say a word's last letter, and then the word. The last chain is of all that
        the others are of, such as pairs of words, and begins with what these give, taken for independent.
    weight : float, default 5.0
        What is believed after a key is what was counted for it, and `weight` times what the key before it gives.

    Returns
    -------
    float
        0 to 1; NaN where there is nothing to test.

    Raises
    ------
    ValueError
        If `train` has no examples.
    """
    counts: dict[Hashable, Counter[Any]] = {}
    for target, chains in train:
        for key in [(), *_keys(chains)]:
            counts.setdefault(key, Counter())[target] += 1
    if not counts:
        raise ValueError("train: expected at least one example, got none")
    targets = {target: k for k, target in enumerate(counts[()])}
    prior = np.array(list(counts[()].values())) / counts[()].total()

    def given(keys: Iterable[Hashable], belief: Any) -> Any:
        for key in keys:
            if key in counts:
                belief = weight * belief
                belief[[targets[target] for target in counts[key]]] += list(counts[key].values())
                belief /= belief.sum()
        return belief

    right = []
    for target, chains in test:
        *apart, joint = (list(keys) for _, keys in itertools.groupby(_keys(chains), key=lambda key: key[0]))
        belief = prior * np.prod([given(keys, prior) / prior for keys in apart], axis=0)
        belief = given(joint, belief / belief.sum())
        right.append(int(belief.argmax()) == targets.get(target))
    return float(np.mean(right)) if right else math.nan


def _keys(chains: Iterable[Iterable[Hashable]]) -> Iterator[tuple[int, int, Hashable]]:
    """Each key with its chain's number and its place in it."""
    return ((n, depth, key) for n, chain in enumerate(chains) for depth, key in enumerate(chain))


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
