"""fastrnn.metrics against numbers worked by hand, and sacrebleu's."""

import math

import numpy as np
import pytest

from fastrnn import metrics


def test_accuracy_counts_steps_alike():
    assert metrics.accuracy([1, 2, 0], [1, 0, -100]) == 0.5
    ragged = [np.array([1, 2, 3]), np.array([4]), np.zeros(0, int)], [np.array([1, 0, 3]), np.array([4]), []]
    assert metrics.accuracy(*ragged) == 0.75
    assert math.isnan(metrics.accuracy([], []))
    with pytest.raises(ValueError, match=r"predictions\[0\]: expected \(2,\), the shape of targets\[0\], got \(1,\)"):
        metrics.accuracy([[1]], [[1, 2]])
    with pytest.raises(ValueError, match="predictions: expected as many as targets, 2, got 1"):
        metrics.accuracy([1], [1, 2])


def test_macro_f1_is_the_mean_over_the_targets_classes():
    # Class 0: 2 right of 3 guessed and 2 there: 4/5. Class 1: 1 right of 1 and 2: 2/3. Class 2 is only guessed.
    assert metrics.macro_f1([0, 0, 0, 1, 2], [0, 0, 1, 1, -100]) == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert metrics.macro_f1([2], [1]) == 0
    assert math.isnan(metrics.macro_f1([], []))


def test_token_f1_counts_repeated_tokens():
    assert metrics.token_f1([["a", "b", "b"]], [["b", "b", "b", "c"]]) == pytest.approx(4 / 7)
    assert metrics.token_f1([np.array([1, 2]), []], [np.array([2, 1]), [3]]) == 0.5
    assert metrics.token_f1([[]], [[]]) == 1
    with pytest.raises(ValueError, match="zip"):
        metrics.token_f1([[]], [])


def test_rmse_and_perplexity():
    assert metrics.rmse([[1.0, 2.0], [3.0, 9.0]], [[1.0, 4.0], [3.0, np.nan]]) == pytest.approx(2 / math.sqrt(3))
    assert math.isnan(metrics.rmse([1.0], [np.nan]))
    assert metrics.perplexity(math.log(7)) == pytest.approx(7)
    assert metrics.perplexity(1e4) == math.inf


def test_chrf_is_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu")
    guesses, truths = ["나는 학교에 간다", "the cat"], ["나는 학교에 갔다", "the cat"]
    assert metrics.chrf(guesses, truths) == sacrebleu.corpus_chrf(guesses, [truths]).score
    assert metrics.chrf(truths, truths) == pytest.approx(100)
    with pytest.raises(ValueError, match="predictions: expected as many as targets"):
        metrics.chrf(["a"], [])


def test_counts_back_off_from_the_special_to_the_general():
    train = [("a", [("x", "xx"), ("q",)]), ("b", [("x", "xy"), ("q",)]), ("b", [("x", "xy"), ("r",)])]
    counts = metrics.Counts(iter([*train, ("?", [("x", "xx"), ("q",)])]), ["a", "b"], weight=0.5)
    test = [
        ("b", [("x", "xy"), ("r",)]),
        ("a", [("x", "xx"), ("s",)]),  # a pair that is new: what was counted for xx decides
        ("b", [("x", "xz"), ("s",)]),  # and what was counted for x
        ("b", [("y", "yy"), ("s",)]),  # the most frequent target
        ("c", [("x", "xy"), ("r",)]),  # never seen: an error
    ]
    assert counts.accuracy(iter(test)) == 0.8
    assert math.isnan(counts.accuracy([]))


def test_counts_are_naive_bayes_where_no_pair_was_seen():
    pairs = [("a", 0, 0), ("a", 0, 1), ("b", 1, 1), ("b", 1, 0), ("b", 0, 2)]
    counts = metrics.Counts(((target, [(x,), (y,), ((x, y),)]) for target, x, y in pairs), "ab", weight=2)
    prior = np.array([3, 4]) / 7  # each counted once more
    np.testing.assert_allclose(counts([(7,), (7,), ("new",)]), prior, rtol=1e-12)
    given_0, given_2 = (np.array([2, 1]) + 2 * prior) / 5, (np.array([0, 1]) + 2 * prior) / 3
    expected = given_0 * given_2 / prior
    expected /= expected.sum()
    np.testing.assert_allclose(counts([(0,), (2,), ("new",)]), expected, rtol=1e-12)
    np.testing.assert_allclose(counts([(0,), (2,), ((0, 2),)]), ([0, 1] + 2 * expected) / 3, rtol=1e-12)


def test_chrf_of_each_with_each_is_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu")
    guesses, truths = ["나는 학교에 간다.", "톰은 톰은 갔다", "a", ""], ["나는 간다.", "톰은 갔어. 톰은", "aa", ""]
    scores = [[sacrebleu.sentence_chrf(guess, [truth]).score for truth in truths] for guess in guesses]
    np.testing.assert_allclose(metrics.chrf_matrix(guesses, truths), scores, atol=1e-9)
    assert metrics.chrf_matrix([], truths).shape == (0, 4)
    assert metrics.chrf_matrix(guesses, []).shape == (4, 0)
