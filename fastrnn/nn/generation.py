"""Generation: ids drawn from logits, search for the likeliest sequence, and predictions one step at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastrnn import engines, validate
from fastrnn.data import BOS, EOS, PAD
from fastrnn.nn.checks import integers, within
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
        Logits are divided by it. Below 1, likely ids are drawn more often; with 0, always the likeliest, and the first
        of several. NaN counts as the likeliest.
    rng : seed or numpy.random.Generator, optional
        Source of the draws.
    banned : sequence of int, optional
        Ids that are never drawn.

    Returns
    -------
    ndarray
        (B,). 0 where there are no probabilities to draw from: some logits are NaN or infinite, or all ids are banned.

    Raises
    ------
    TypeError, ValueError
        If the temperature is not a finite number of at least 0, or `logits` has not two axes or no ids.
    IndexError
        If a banned id is not among the V.
    """
    temperature = validate.at_least_zero("temperature", temperature)
    logits = _logits(logits)
    ruled_out, operations = _ruled_out(banned, logits), engines.current().operations
    if temperature == 0:
        return operations.greedy(logits, ruled_out)
    uniforms = validate.generator("rng", rng).random(len(logits))
    return operations.draw(logits, temperature, uniforms, ruled_out)


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
    rng = validate.generator("rng", rng)
    ids = np.full(steps.batch * steps.width, BOS)
    drawn: list[NDArray[np.intp]] = []
    done = np.zeros(ids.shape, bool)
    while len(drawn) < max_length and not done.all():
        ids = draw(steps.step(ids), temperature, rng, banned)
        done |= ids == EOS
        drawn.append(ids)
    return _cut(np.stack(drawn, axis=1) if drawn else np.empty((ids.size, 0), np.intp))


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
    if W == 1:
        return sample(steps, max_length, 0.0, None, banned)
    scores = np.full((B, W), -np.inf)
    scores[:, 0] = 0  # the rows of a group are equal at the start, so the first is enough
    lengths = np.zeros((B, W))
    done = np.zeros((B, W), bool)
    last = np.full((B, W), BOS)
    taken: list[tuple[NDArray, NDArray]] = []
    for _ in range(max_length):
        logits = _logits(steps.step(last.reshape(-1)), B * W)
        stop = min(EOS, logits.shape[1] - 1)
        ruled_out = _ruled_out(banned, logits)
        parents, last, scores = engines.current().operations.beam(logits, scores, done, ruled_out, stop)
        taken.append((parents, last))
        ended = np.take_along_axis(done, parents, 1)
        lengths = np.take_along_axis(lengths, parents, 1) + ~ended
        done = ended | (last == EOS)
        if done.all():
            break
        steps.select(parents)
    place = (scores / np.maximum(lengths, 1) ** length_penalty).argmax(axis=1)
    groups, best = np.arange(B), np.empty((B, len(taken)), np.intp)
    for t in reversed(range(len(taken))):  # back from the best sequence's last id to its first
        parents, last = taken[t]
        best[:, t], place = last[groups, place], parents[groups, place]
    return _cut(best)


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


def _logits(logits: NDArray, rows: int | None = None) -> NDArray:
    """Return the logits of a step as operations take them, after checking that they are (rows, V)."""
    logits = validate.as_ndarray("logits", logits)
    if logits.ndim != 2 or not logits.shape[1] or rows not in (None, len(logits)):
        raise ValueError(f"logits: expected ({'B' if rows is None else rows}, V), V at least 1, got {logits.shape}")
    dtype = logits.dtype if logits.dtype in (np.float32, np.float64) else np.float64
    return validate.contiguous(logits.astype(dtype, copy=False))


def _ruled_out(banned: Sequence[int], logits: NDArray) -> NDArray[np.int64]:
    """Return the banned ids as operations take them; negative ones count from the end."""
    ids, V = integers("banned", list(banned)), logits.shape[1]
    if ids.ndim != 1:
        raise ValueError(f"banned: expected a list of ids, got {banned!r}")
    within("banned", np.where(ids < 0, ids + V, ids), V)
    return np.unique(np.arange(V, dtype=np.int64)[ids])


def _cut(ids: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Return each row of ids (N, T), up to its first EOS if there is one."""
    ends = np.where((ids == EOS).any(axis=1), (ids == EOS).argmax(axis=1) if ids.size else 0, ids.shape[1])
    return [row[:end] for row, end in zip(ids, ends, strict=True)]


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
    x, ids = integers("x", x).copy(), integers("ids", ids)
    if x.ndim != 2 or ids.ndim != 1:
        raise ValueError(f"x, ids: expected (T, n) and (K,), got {x.shape} and {ids.shape}")
    x, column = x[:, None], validate.index("column", column, x.shape[1])
    answers = np.full(len(x), -1)
    if allowed is not None and not np.any(allowed, axis=-1).all():
        raise ValueError("allowed: expected at least one class at each step")
    for _ in range(len(x)):
        sure = softmax(model(x)[0][:, 0])
        if allowed is not None:
            sure = np.where(allowed, sure, -1)
        sure[answers >= 0] = -2
        if len(ids) != sure.shape[-1]:
            raise ValueError(f"ids: expected one for each of {sure.shape[-1]} classes, got {len(ids)}")
        step, answer = np.unravel_index(sure.argmax(), sure.shape)
        x[step, 0, column], answers[step] = ids[answer], answer
    return answers
