"""The example systems that write: the short form of each reaches its bar; the longer ones are run by .ci/run."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["translator", "captioner"])
def test_quick_form(name):
    pytest.importorskip("sklearn")
    pytest.importorskip("click")
    root = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, EXAMPLES / f"{name}.py", "--quick"]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "nearest" in ended.stdout  # the baseline, beside the score


def test_quick_form_of_words():
    pytest.importorskip("click")
    root = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, EXAMPLES / "language_model.py", "--quick", "--words"]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def example(name):
    pytest.importorskip("click")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ngrams_of_language_model():
    module = example("language_model")
    train = np.array([0, 1, 0, 1, 0, 2])
    # Counts 3, 2 and 1, one of each: the share is 1/3. So they give up 1 - 2/3, 2 - 3/3 and 3 - 4/3, of 6 in all.
    gave = 1 / 3 + 1 + 5 / 3
    both = (3 - 5 / 3 + gave / 3) / 6 * (2 - 1 + gave / 3) / 6
    assert np.isclose(module.ngram_loss(train, np.array([0, 1]), 3, order=1), -np.log(both) / 2)
    # Each id follows one other, so all are as likely without a context. Of the pairs 01 and 10 occur twice, 02 once:
    # the share is 1/5, and they give up 1 - 4/5 and 2 - 3/10.
    after = (2 - 17 / 10 + (17 / 10 + 1 / 5) / 3) / 3
    assert np.isclose(module.ngram_loss(train, np.array([0, 1]), 3, order=2), -np.log(after))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_chances_of_ngrams_add_up_to_one(order, rng):
    module, (train, context) = example("language_model"), (rng.integers(4, size=n) for n in (60, order - 1))
    chances = [np.exp(-module.ngram_loss(train, np.append(context, k), 4, order)) for k in range(4)]
    assert np.isclose(sum(chances), 1)


def test_words_of_language_model():
    vocabulary, train, held_out = example("language_model").encode("Ay, sir's!\n" * 9 + "He, sir's sir.", words=True)
    assert set(vocabulary.tokens) == {"<unk>", "\n", "!", ",", "ay", "sir's", "he"}
    assert vocabulary.decode(train[:5]) == ["ay", ",", "sir's", "!", "\n"]
    assert vocabulary.decode(held_out)[-2:] == ["<unk>", "<unk>"]
