"""scikit-learn estimators for sequences: a recurrent network behind `fit`, `predict` and `score`.

>>> classifier = fastrnn.sklearn.SequenceClassifier(analyzer="word", random_state=0)
>>> classifier.fit(["good film", "bad film"], ["yes", "no"]).predict(["good"])

They are scikit-learn estimators: `clone`, `Pipeline`, `GridSearchCV`, `cross_val_score` and pickle work with them.
docs/how-to/scikit-learn.md shows how to use them. They need scikit-learn 1.6 or newer: ``pip install
"fastrnn[sklearn]"``.
"""

from fastrnn.pages import needs

try:
    from sklearn.utils.validation import validate_data as _needed  # noqa: F401
except ImportError as error:
    raise ImportError(
        needs("fastrnn.sklearn", "scikit-learn 1.6 or newer", "fastrnn[sklearn]", "how-to/scikit-learn"), name="sklearn"
    ) from error

from fastrnn.sklearn.estimators import SequenceClassifier, SequenceRegressor, SequenceTagger

__all__ = ["SequenceClassifier", "SequenceRegressor", "SequenceTagger"]
