"""Generation: ids drawn from logits, search for the likeliest sequence, and predictions one step at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastrnn import validate
from fastrnn.data import BOS, EOS, PAD
from fastrnn.nn.losses import log_softmax, softmax

__all__ = ["MeanSteps", "Steps", "beam_search", "consensus", "draw", "fill", "sample"]


class Steps(Protocol):
    """Sequences that grow by one id at a time. There are `batch` groups, one for each input, of `width` rows."""

    batch: int
    width: int

    def step(self, ids: NDArray) -> NDArray:
        """Take an id of each row, (batch * width,); return the logits of the next, (batch * width, V)."""

    def select(self, parents: NDArray) -> None:
        """Continue each row from a row of its group: parents (batch, width), each in 0..width-1."""


class MeanSteps:
    """The `Steps` of several models as one: probabilities are the mean of theirs. All have the same batch and width."""

    def __init__(self, members: Sequence[Steps]) -> None:
        self.batch, self.width = members[0].batch, members[0].width
        self._members = members

    def step(self, ids: NDArray) -> NDArray:
        """Take an id of each row, (batch * width,); return log-probabilities of the next, (batch * width, V)."""
        logits = [member.step(ids).astype(np.float64) for member in self._members]
        return np.logaddexp.reduce([log_softmax(each) for each in logits]) - np.log(len(logits))

    def select(self, parents: NDArray) -> None:
        """Continue each row from a row of its group: parents (batch, width), each in 0..width-1."""
        for member in self._members:
            member.select(parents)


def draw(logits: NDArray, temperature: float = 1.0, rng: Any = None, banned: Sequence[int] = ()) -> NDArray[np.intp]:
    """Draw an id for each row of logits.

    Parameters
    ----------
    logits : ndarray
        (B, V).
    temperature : float, default 1.0
        Logits are divided by it. Below 1, likely ids are drawn more often; with 0, always the likeliest.
    rng : seed or numpy.random.Generator, optional
        Source of the draws.
    banned : sequence of int, optional
        Ids that are never drawn.

    Returns
    -------
    ndarray
        (B,).

    Raises
    ------
    TypeError, ValueError
        If the temperature is not a finite number of at least 0.
    """
    temperature = validate.at_least_zero("temperature", temperature)
    logits = logits.astype(np.float64)
    logits[:, list(banned)] = -np.inf
    if temperature == 0:
        return logits.argmax(axis=1)
    logits -= logits.max(axis=1, keepdims=True)  # so the division can only overflow to -inf, which is right
    with np.errstate(over="ignore"):
        chances = softmax(logits / temperature).cumsum(axis=1)
    places = np.random.default_rng(rng).random((len(logits), 1)) * chances[:, -1:]
    return (chances <= places).sum(axis=1)


def sample(
    steps: Steps, max_length: int, temperature: float = 1.0, rng: Any = None, banned: Sequence[int] = (PAD, BOS)
) -> list[NDArray[np.intp]]:
    """Draw a sequence for each row, from BOS to EOS or to `max_length` ids.

    Parameters
    ----------
    steps : Steps
        Before the first id.
    max_length : int
        The largest number of ids, EOS not included.
    temperature, rng, banned
        As for `draw`.

    Returns
    -------
    list of ndarray
        batch * width sequences of ids, without BOS and EOS.
    """
    rng = np.random.default_rng(rng)
    ids = np.full(steps.batch * steps.width, BOS)
    drawn: list[NDArray[np.intp]] = []
    done = np.zeros(ids.shape, bool)
    while len(drawn) < max_length and not done.all():
        ids = draw(steps.step(ids), temperature, rng, banned)
        done |= ids == EOS
        drawn.append(np.where(done, EOS, ids))
    return [row[: _end(row)] for row in (np.stack(drawn, axis=1) if drawn else np.zeros((ids.size, 0), np.intp))]


def beam_search(
    steps: Steps, max_length: int, length_penalty: float = 1.0, banned: Sequence[int] = (PAD, BOS)
) -> list[NDArray[np.intp]]:
    """Return for each input the likeliest sequence found, keeping the best `steps.width` at each step.

    Parameters
    ----------
    steps : Steps
        Before the first id; all rows of a group are equal. With width 1 the search is greedy.
    max_length : int
        The largest number of ids, EOS not included.
    length_penalty : float, default 1.0
        A sequence's log-probability is divided by its length (EOS included) to this power. With 0, short sequences
        are preferred.
    banned : sequence of int, default (PAD, BOS)
        Ids that are never taken.

    Returns
    -------
    list of ndarray
        `steps.batch` sequences of ids, without BOS and EOS.
    """
    B, W = steps.batch, steps.width
    scores = np.full((B, W), -np.inf)
    scores[:, 0] = 0  # the rows of a group are equal at the start, so the first is enough
    history = np.zeros((max_length, B, W), np.intp)
    lengths = np.zeros((B, W))
    done = np.zeros((B, W), bool)
    last = np.full((B, W), BOS)
    for t in range(max_length):
        gains = log_softmax(steps.step(last.reshape(-1)).astype(np.float64)).reshape(B, W, -1)
        gains[..., list(banned)] = -np.inf
        gains[done] = -np.inf
        gains[done, EOS] = 0  # a sequence that has ended is not changed
        V = gains.shape[-1]
        totals = (scores[:, :, None] + gains).reshape(B, W * V)
        best = np.argpartition(-totals, W - 1, axis=1)[:, :W]
        parents, last = np.divmod(best, V)
        scores = np.take_along_axis(totals, best, 1)
        history[:t] = np.take_along_axis(history[:t], parents[None], 2)
        history[t] = last
        ended = np.take_along_axis(done, parents, 1)
        lengths = np.take_along_axis(lengths, parents, 1) + ~ended
        done = ended | (last == EOS)
        if done.all():
            break
        steps.select(parents)
    chosen = (scores / np.maximum(lengths, 1) ** length_penalty).argmax(axis=1)
    rows = history[:, np.arange(B), chosen].T
    return [row[: min(_end(row), int(length))] for row, length in zip(rows, lengths[np.arange(B), chosen], strict=True)]


def consensus(
    drawn: Sequence[Sequence[Hashable]], score: Callable[[Sequence[Any], Sequence[Any]], float]
) -> list[Any]:  # fmt: skip
    """Return the sequence with the best expected score, if each drawn one is equally likely to be the true one.

    This is minimum Bayes risk decoding. If even the likeliest sequence is probably wrong, the result leaves out items
    that only few of the drawn sequences have.

    Parameters
    ----------
    drawn : sequence of sequences
        At least one sequence of ids or tokens. A sequence that occurs several times has more weight.
    score : callable
        From predictions and equally many targets to a mean score, such as `fastrnn.metrics.token_f1`.

    Returns
    -------
    list
        The candidate with the greatest mean score. Candidates are the sequences drawn, and for each n the n ids that
        are drawn most often, in the order of their mean places.
    """
    truths = [list(sequence) for sequence in drawn]
    places = defaultdict(list)
    for sequence in truths:
        for k, item in enumerate(sequence):
            places[item].append(k / len(sequence))
    most = sorted(places, key=lambda item: -len(places[item]))[: max(map(len, truths))]
    made = (sorted(most[:n], key=lambda item: float(np.mean(places[item]))) for n in range(1, len(most) + 1))
    candidates = [list(candidate) for candidate in dict.fromkeys(map(tuple, [*truths, *made]))]
    return max(candidates, key=lambda candidate: score([candidate] * len(truths), truths))


def _end(row: NDArray) -> int:
    """Return the length of a sequence: up to the first EOS, if there is one."""
    ends = np.flatnonzero(row == EOS)
    return int(ends[0]) if ends.size else len(row)


def fill(model: Any, x: Any, ids: Any, column: int, allowed: Any = None) -> NDArray[np.intp]:
    """Predict the class of each step of a sequence, the most certain step first, each given those predicted before.

    Parameters
    ----------
    model : ManyToMany
        Trained on `fastrnn.data.PartlyShown` batches.
    x : array_like of int
        (T, n), one sequence, in which no target is shown.
    ids, column
        As for `PartlyShown`.
    allowed : array_like of bool, optional
        (T, K), which classes each step may have; at least one. Default: all.

    Returns
    -------
    ndarray
        (T,), the classes.

    Raises
    ------
    ValueError
        If no class is allowed at a step.

    References
    ----------
    M. Ghazvininejad et al., "Mask-Predict: Parallel Decoding of Conditional Masked Language Models", arXiv:1904.09324
    (2019); here one step is predicted in each round.
    """
    x = np.array(x)[:, None]
    answers = np.full(len(x), -1)
    if allowed is not None and not np.any(allowed, axis=-1).all():
        raise ValueError("allowed: expected at least one class at each step")
    for _ in range(len(x)):
        sure = softmax(model(x)[0][:, 0])
        if allowed is not None:
            sure = np.where(allowed, sure, -1)
        sure[answers >= 0] = -2
        step, answer = np.unravel_index(sure.argmax(), sure.shape)
        x[step, 0, column], answers[step] = ids[answer], answer
    return answers
