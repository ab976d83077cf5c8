"""scikit-learn's estimators of sequences: its own checks, what X and y may be, weights, seeds, and its tools."""

import pickle
import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6", reason="scikit-learn is not installed")
from running import output_of, run_python
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastrnn
from fastrnn import nn
from fastrnn.sklearn import SequenceClassifier, SequenceRegressor, SequenceTagger

RNG = np.random.default_rng(0)
SMALL: dict[str, Any] = {"cell": "gru", "hidden_size": 8, "max_iter": 2, "random_state": 0}
# What decides is the order of the words, not which there are.
TEXTS = ["good not bad", "bad not good", "well good not bad", "well bad not good", "good", "bad"] * 10
KINDS = ["yes", "no"] * 30
WORDS = [text.split() for text in TEXTS]
TAGS = [["OTHER" if word in ("not", "well") else "SAID" for word in words] for words in WORDS]
SERIES = [RNG.standard_normal((n, 3)) for n in [4, 1, 6, 3, 0, 5] * 5]
SUMS = np.array([[series.sum(), series.sum() * 100 + 1000] for series in SERIES])
# (estimator, X, y) of each kind
CASES: list[tuple[Any, Any, Any]] = [
    (SequenceClassifier(analyzer="word", embedding_size=4, **SMALL), TEXTS, KINDS),
    (SequenceRegressor(**SMALL), SERIES, SUMS),
    (SequenceTagger(analyzer="word", embedding_size=4, spelling=True, **SMALL), WORDS, TAGS),
]


def answers(estimator: Any, X: Any) -> np.ndarray:
    """What an estimator says of X, in one array: also its probabilities, if there are any."""
    found = getattr(estimator, "predict_proba", estimator.predict)(X)
    return np.concatenate(list(found)) if found.dtype == object else found


# ---- scikit-learn's own checks ---------------------------------------------------------------------------------------


class RowTagger(SequenceTagger):
    """A tagger for scikit-learn's checks, whose rows have one label: each of a row's steps has it."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return super().fit(X, self._each_step(X, y), sample_weight)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        return super().score(X, self._each_step(X, y), sample_weight)

    def predict(self, X: Any) -> Any:
        return np.stack(list(super().predict(X)))

    def predict_proba(self, X: Any) -> Any:
        return np.stack(list(super().predict_proba(X)))

    def _each_step(self, X: Any, y: Any) -> Any:
        table = X if sparse.issparse(X) else np.asarray(X)
        return None if y is None else np.repeat(np.asarray(y)[:, None], table.shape[1] if table.ndim > 1 else 1, axis=1)


def expected_failures(estimator: Any) -> dict[str, str]:
    if isinstance(estimator, RowTagger):
        return {}
    return {"check_sample_weight_equivalence_on_dense_data": "batches differ where rows are repeated; see TestWeights"}


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")  # in a check
@parametrize_with_checks(
    [
        SequenceClassifier(cell="gru", hidden_size=8, batch_size=64, max_iter=20, learning_rate=0.05, random_state=0),
        SequenceRegressor(cell="rnn", hidden_size=8, batch_size=16, max_iter=15, learning_rate=0.05, random_state=0),
        RowTagger(**SMALL),
    ],
    expected_failed_checks=expected_failures,
)
def test_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    """None is left out; `check_array_api_input` skips itself here, and runs in the test after this one."""
    check(estimator)


def test_the_check_that_needs_another_process() -> None:
    """SciPy reads SCIPY_ARRAY_API when it is imported."""
    code = """
    from sklearn.utils.estimator_checks import check_array_api_input
    from fastrnn.sklearn import SequenceClassifier, SequenceRegressor

    for estimator in (SequenceClassifier, SequenceRegressor):
        small = estimator(hidden_size=4, max_iter=1, random_state=0)
        check_array_api_input("", small, array_namespace="numpy", expect_only_array_outputs=False)
    print("passed")
    """
    assert output_of(code, SCIPY_ARRAY_API="1") == "passed\n"


def test_an_old_scikit_learn_or_none_is_named() -> None:
    code = "import sys; sys.modules['sklearn'] = None; import fastrnn.sklearn"
    assert 'ImportError: fastrnn.sklearn needs scikit-learn 1.6 or newer: pip install "fast' in run_python(code).stderr


# ---- what they learn, from what X and y may be -----------------------------------------------------------------------


def test_a_classifier_reads_the_order() -> None:
    classifier = SequenceClassifier(analyzer="word", hidden_size=16, max_iter=15, random_state=0).fit(TEXTS, KINDS)
    assert classifier.score(TEXTS, KINDS) == 1
    assert classifier.classes_.tolist() == ["no", "yes"]
    probabilities, logits = classifier.predict_proba(TEXTS), classifier.decision_function(TEXTS)
    assert probabilities.shape == (60, 2)
    assert logits.shape == (60,)
    np.testing.assert_array_equal(classifier.classes_[(logits > 0).astype(int)], classifier.predict(TEXTS))
    np.testing.assert_allclose(classifier.predict_log_proba(TEXTS), np.log(probabilities), rtol=1e-12)


def test_three_classes_have_a_logit_each() -> None:
    classifier = SequenceClassifier(**SMALL).fit(SERIES, [0, 1, 2] * 10)
    assert classifier.decision_function(SERIES).shape == classifier.predict_proba(SERIES).shape == (30, 3)


def test_a_regressor_learns_targets_of_any_size() -> None:
    regressor = SequenceRegressor(hidden_size=16, max_iter=60, pooling="mean", learning_rate=0.02, random_state=0)
    regressor.fit(SERIES, SUMS)
    assert regressor.score(SERIES, SUMS) > 0.9
    assert regressor.predict(SERIES[:3]).shape == (3, 2)
    assert regressor.fit(SERIES, SUMS[:, 1]).predict(SERIES[:3]).shape == (3,)


def test_a_tagger_labels_each_step() -> None:
    tagger = SequenceTagger(hidden_size=8, max_iter=30, learning_rate=0.02, random_state=0).fit(WORDS, TAGS)
    assert tagger.score(WORDS, TAGS) == 1
    assert [tags.tolist() for tags in tagger.predict(WORDS[:2])] == TAGS[:2]
    assert [p.shape for p in tagger.predict_proba(WORDS[2:5])] == [(4, 2), (4, 2), (1, 2)]
    assert tagger.score(WORDS[:2], [["SAID"] * 3] * 2) == pytest.approx(2 / 3)
    assert tagger.score(WORDS[3:5], [["SAID"] * 4, ["OTHER"]], sample_weight=[1, 4]) == pytest.approx(2 / 8)


def test_unknown_words_are_read_by_their_characters() -> None:
    words = [[f"{''.join(RNG.choice(list('abcde'), 4))}{end}"] for end in ("ly", "ness") * 50]
    tags = [["ADV"], ["NOUN"]] * 50
    tagger = SequenceTagger(spelling=True, embedding_size=8, hidden_size=8, learning_rate=0.02, random_state=0)
    assert tagger.fit(words[:60], tags[:60]).score(words[60:], tags[60:]) == 1
    assert np.isfinite(tagger.predict_proba([["Zz", ""], []])[0]).all()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (TEXTS, WORDS),
        (TEXTS, np.array(TEXTS, object)),
        (TEXTS, tuple(TEXTS)),
        (np.array([["a", "b"], ["b", "a"]] * 5), [["a", "b"], ["b", "a"]] * 5),
        (np.ones((9, 4, 2)) * np.arange(9)[:, None, None], [np.full((4, 2), k) for k in range(9)]),
        (np.arange(36.0).reshape(9, 4), [np.arange(4) + 4 * k for k in range(9)]),
        (np.arange(36.0).reshape(9, 4), np.arange(36.0).reshape(9, 4).tolist()),
        ([np.ones((2, 3)), np.zeros((0, 3)), np.ones((1, 3))], [np.ones((2, 3)), [], np.ones((1, 3), int).tolist()]),
    ],
    ids=["words", "objects", "tuple", "table of tokens", "3-D", "2-D", "lists", "empty"],
)
def test_forms_of_one_x_are_one(first: Any, second: Any) -> None:
    y = [0, 1, 1] * 20
    estimator = SequenceClassifier(**{**SMALL, "max_iter": 1}, analyzer="word")
    one, other = (clone(estimator).fit(X, y[: len(X)]) for X in (first, second))
    for X in (first, second):
        np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))


def test_a_table_has_its_columns_and_their_names() -> None:
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pd.DataFrame(np.arange(12.0).reshape(4, 3), columns=["a", "b", "c"])
    classifier = SequenceClassifier(**SMALL).fit(table, [0, 1, 0, 1])
    assert classifier.feature_names_in_.tolist() == ["a", "b", "c"]
    assert not hasattr(classifier.fit(pd.Series(["a", "b"]), [0, 1]), "n_features_in_")


def test_tokens_by_a_function_and_a_vocabulary_of_a_size() -> None:
    classifier = SequenceClassifier(analyzer=lambda text: text.split("-"), max_features=1, **SMALL)
    classifier.fit(["a-b", "a-c"], [0, 1])
    assert classifier.vocabulary_.tokens == ("<pad>", "<unk>", "a")
    probabilities = classifier.predict_proba(["a-b", "a-new", []])
    np.testing.assert_array_equal(probabilities[0], probabilities[1])
    assert (probabilities[2] != probabilities[0]).all()
    classifier.fit(SERIES, [0, 1] * 15)  # features after tokens
    assert classifier.n_features_in_ == 3
    assert not hasattr(classifier, "vocabulary_")


def test_features_of_any_size_are_read() -> None:
    large = [series * 1e9 + 1e12 for series in SERIES]
    one, other = (SequenceRegressor(**SMALL).fit(X, SUMS).predict(X) for X in (SERIES, large))
    np.testing.assert_allclose(one, other, rtol=1e-3)
    constant = SequenceRegressor(**SMALL).fit(np.full((4, 3), 0.1), [7.0] * 4)
    np.testing.assert_allclose(constant.predict(np.full((4, 3), 0.1)), 7, atol=0.5)


# ---- weights ---------------------------------------------------------------------------------------------------------


class TestWeights:
    @pytest.mark.parametrize(("estimator", "X", "y"), CASES, ids=["classifier", "regressor", "tagger"])
    def test_a_weight_of_two_is_a_row_twice(self, estimator: Any, X: Any, y: Any) -> None:
        """With all rows in one batch, in float32. A row of weight 0 is not there, to the bit."""
        estimator = clone(estimator).set_params(batch_size=200)
        weights = np.arange(len(X)) % 3
        few, more = np.flatnonzero(weights), np.repeat(np.arange(len(X)), weights)
        weighted = answers(clone(estimator).fit(X, y, sample_weight=weights), X)
        repeated = answers(clone(estimator).fit([X[k] for k in more], [y[k] for k in more]), X)
        np.testing.assert_allclose(weighted, repeated, rtol=1e-3)
        without = clone(estimator).fit([X[k] for k in few], [y[k] for k in few], sample_weight=weights[few])
        np.testing.assert_array_equal(weighted, answers(without, X))

    def test_weights_of_classes_are_those_of_their_rows(self) -> None:
        estimator = SequenceClassifier(analyzer="word", **SMALL)
        rows = np.where(np.array(KINDS) == "yes", 3.0, 1.0)
        by_rows = clone(estimator).fit(TEXTS, KINDS, sample_weight=rows)
        by_class = clone(estimator).set_params(class_weight={"yes": 3.0}).fit(TEXTS, KINDS)
        balanced = clone(estimator).set_params(class_weight="balanced").fit(TEXTS, KINDS)
        np.testing.assert_array_equal(by_rows.predict_proba(TEXTS), by_class.predict_proba(TEXTS))
        np.testing.assert_array_equal(balanced.predict_proba(TEXTS), estimator.fit(TEXTS, KINDS).predict_proba(TEXTS))
        assert by_rows.predict_proba(TEXTS)[:, 1].mean() > balanced.predict_proba(TEXTS)[:, 1].mean()


# ---- seeds, files, tools ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("estimator", "X", "y"), CASES, ids=["classifier", "regressor", "tagger"])
def test_a_seed_gives_the_same_bits_with_any_number_of_threads(estimator: Any, X: Any, y: Any) -> None:
    estimator = clone(estimator).set_params(dropout=0.2, early_stopping=True)
    found = []
    for threads in (1, 2, 3):
        with fastrnn.num_threads(threads):
            found.append(clone(estimator).fit(X, y))
    for other in found[1:]:
        for name, value in found[0].model_.params.items():
            np.testing.assert_array_equal(other.model_.params[name], value)
        np.testing.assert_array_equal(answers(found[0], X), answers(other, X))
    seeds = [1, None, None, np.random.RandomState(0)]
    others = [answers(clone(estimator).set_params(random_state=seed).fit(X, y), X) for seed in seeds]
    assert len({a.tobytes() for a in [*others[:3], answers(found[0], X)]}) == 4
    np.testing.assert_array_equal(others[3], answers(found[0], X))


@pytest.mark.parametrize(("estimator", "X", "y"), CASES, ids=["classifier", "regressor", "tagger"])
def test_a_pickle_and_the_kits_file_answer_as_the_fitted_one(estimator: Any, X: Any, y: Any, tmp_path: Any) -> None:
    fitted = clone(estimator).fit(X, y)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(answers(again, X), answers(fitted, X))
    fitted.model_.save(tmp_path / "model.npz")
    again.model_ = nn.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(answers(again, X), answers(fitted, X))
    assert again.model_.vocabularies.get("tokens") == getattr(fitted, "vocabulary_", None)
    unfitted = clone(fitted)
    with pytest.raises(NotFittedError):
        unfitted.predict(X)


def test_scikit_learns_tools() -> None:
    pipeline = make_pipeline(FunctionTransformer(_lower), SequenceClassifier(analyzer="word", **SMALL))
    pipeline.set_params(sequenceclassifier__learning_rate=0.02)
    grid = {"sequenceclassifier__max_iter": [1, 20], "sequenceclassifier__hidden_size": np.array([8])}
    shouted = [text.upper() for text in TEXTS]
    found = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(shouted, KINDS)
    assert found.best_params_["sequenceclassifier__max_iter"] == 20
    assert found.score(shouted, KINDS) == found.score(TEXTS, KINDS) > 0.9
    alone = GridSearchCV(pipeline, grid, cv=2).fit(shouted, KINDS)
    np.testing.assert_array_equal(alone.cv_results_["mean_test_score"], found.cv_results_["mean_test_score"])


def _lower(texts: list[str]) -> list[str]:
    return [text.lower() for text in texts]


def test_cross_validation_of_all_kinds() -> None:
    for estimator, X, y in CASES:
        scores = cross_val_score(estimator, X, y, cv=3, params={"sample_weight": np.ones(len(X))})
        assert np.isfinite(scores).all()
    tagger, words, tags = CASES[2]
    found = cross_val_predict(tagger, words, tags, cv=3)
    assert list(map(len, found)) == list(map(len, tags))


def test_training_ends_when_it_no_longer_helps() -> None:
    noise = RNG.integers(0, 2, 60)
    classifier = SequenceClassifier(
        analyzer="word", early_stopping=True, n_iter_no_change=3, max_iter=100, learning_rate=0.02, hidden_size=16,
        random_state=0, validation_fraction=0.5,
    ).fit(TEXTS, noise)  # fmt: skip
    losses = classifier.validation_losses_
    assert classifier.n_iter_ == len(losses) == int(np.argmin(losses)) + 4 < 100
    assert SequenceClassifier(**SMALL).fit(TEXTS, KINDS).n_iter_ == 2


def test_a_warm_start_goes_on() -> None:
    for estimator, X, y in CASES:
        warm = clone(estimator).set_params(warm_start=True).fit(X, y)
        before, model = answers(warm, X), warm.model_
        assert warm.fit(X, y).model_ is model
        assert (answers(warm, X) != before).any()
    with pytest.raises(ValueError, match="y: expected classes of the fit before, as warm_start is set, got 'RARE'"):
        warm.fit([["good"]], [["RARE"]])


def test_progress_is_shown_if_it_is_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    SequenceClassifier(**SMALL).fit(TEXTS, KINDS)
    assert capfd.readouterr() == ("", "")
    SequenceClassifier(**SMALL, verbose=True).fit(TEXTS, KINDS)
    assert "loss" in capfd.readouterr().err


# ---- errors ----------------------------------------------------------------------------------------------------------

CLASSES = [0, 1] * 15


@pytest.mark.parametrize(
    ("options", "X", "y", "error", "message"),
    [
        ({"cell": "GRU"}, TEXTS, KINDS, ValueError, "cell: expected one of 'lstm', 'gru', 'rnn', got 'GRU'"),
        ({"pooling": "sum"}, TEXTS, KINDS, ValueError, "pooling: expected one of"),
        ({"analyzer": "words"}, TEXTS, KINDS, ValueError, "analyzer: expected one of 'char', 'word', got 'words'"),
        ({"max_iter": 0}, TEXTS, KINDS, ValueError, "max_iter: expected an integer of at least 1, got 0"),
        ({"hidden_size": 2.5}, TEXTS, KINDS, TypeError, "hidden_size: expected an integer, got float"),
        ({"learning_rate": -1}, TEXTS, KINDS, ValueError, "learning_rate: expected a number of at least 0, got -1"),
        ({"validation_fraction": 0.0}, TEXTS, KINDS, ValueError, "validation_fraction: expected a number"),
        ({"early_stopping": 1}, TEXTS, KINDS, TypeError, "early_stopping: expected True or False, got 1"),
        ({}, TEXTS, KINDS[1:], ValueError, "inconsistent numbers of samples"),
        ({}, TEXTS, None, ValueError, "requires y to be passed"),
        ({}, [], [], ValueError, "X: expected a minimum of 1 sequence"),
        ({}, "a text", [0], TypeError, "X: expected several sequences, got one text"),
        ({}, ["a", 3], [0, 1], TypeError, r"X\[1\]: expected a text or tokens \(str\), got int"),
        ({}, [["a"], ["b", 3]], [0, 1], TypeError, r"X\[1\]: .* got a token of type int"),
        ({}, [np.ones((2, 3)), np.ones((2, 4))], [0, 1], ValueError, r"X\[1\]: expected steps with 3 features"),
        ({}, [np.ones((2, 3, 1)), np.ones((2, 3))], [0, 1], ValueError, r"X\[0\]: expected an array \(T, F\)"),
        ({}, [np.ones(2), np.array([1j])], [0, 1], TypeError, r"X\[1\]: expected numbers, got complex128"),
        ({}, [np.ones(2), [[1], [2, 3]]], [0, 1], ValueError, r"X\[1\]: expected an array \(T, F\), got a list"),
        ({}, [[[1], [2, 3]], np.ones(2)], [0, 1], ValueError, r"X\[0\]: expected an array \(T, F\), got a list"),
        ({}, [np.array([1, np.nan]), np.ones(3)], [0, 1], ValueError, "Input X contains NaN"),
        ({}, np.full((2, 3, 1), np.inf), [0, 1], ValueError, "Input X contains infinity"),
        ({}, np.ones((2, 3, 1, 1)), [0, 1], ValueError, r"X: expected sequences, .* got one of shape \(2, 3, 1, 1\)"),
        ({}, SERIES, np.linspace(0, 1, 30), ValueError, "Unknown label type"),
    ],
)  # fmt: skip
def test_errors_of_fit(options: Any, X: Any, y: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        SequenceClassifier(**options).fit(X, y)


@pytest.mark.parametrize(
    ("fitted", "X", "message"),
    [
        (TEXTS[:30], SERIES, "X: expected texts or lists of tokens, as `fit` had, got arrays of features"),
        (SERIES, TEXTS, "X: expected arrays of features, as `fit` had, got texts or lists of tokens"),
        (SERIES, np.ones((2, 3)), "X: expected steps with 3 features, as `fit` had, got 1"),
        (SERIES, [np.ones((2, 4))], "X: expected steps with 3 features, as `fit` had, got 4"),
        (np.ones((30, 4)), np.ones((30, 5)), "X has 5 features, but SequenceClassifier is expecting 4"),
    ],
)
def test_another_x_than_that_of_fit(fitted: Any, X: Any, message: str) -> None:
    classifier = SequenceClassifier(**SMALL).fit(fitted, CLASSES)
    with pytest.raises(ValueError, match=message):
        classifier.predict(X)


def test_errors_of_targets_and_weights() -> None:
    tagger = SequenceTagger(**SMALL)
    for y, message in (
        ([["A"]], "y[0]: expected 2 labels, one for each step of X[0], got 1"),
        (["A"], "y[0]: expected a sequence of labels, one for each step of X[0], got 'A'"),
        ([[["A"], ["B"]]], "y[0]: expected a sequence of labels, one for each step of X[0], got shape (2, 1)"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            tagger.fit([["a", "b"]], y)
    with pytest.raises(ValueError, match="y: expected at least one label, got none"):
        tagger.fit([[], np.zeros((0, 2))], [[], []])
    with pytest.raises(ValueError, match=r"y: expected \(N,\) or \(N, K\), got \(2, 1, 1\)"):
        SequenceRegressor(**SMALL).fit(["a", "b"], np.ones((2, 1, 1)))
    for weights, message in (([1, -1], "at least 0, got -1"), ([0, 0], "zero")):
        with pytest.raises(ValueError, match=f"(?i)sample.weight.*{message}"):
            SequenceClassifier(**SMALL).fit(["a", "b"], [0, 1], sample_weight=weights)
