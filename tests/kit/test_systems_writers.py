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


def example(name):
    pytest.importorskip("click")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ngrams_of_language_model():
    module = example("language_model")
    train = np.array([0, 1, 0, 1, 0, 2])
    # Alone: 0 three times, 1 twice and 2 once, three kinds in six.
    both = (3 + 3 / 3) / (6 + 3) * (2 + 3 / 3) / (6 + 3)
    assert np.isclose(module.ngram_loss(train, np.array([0, 1]), 3, order=1), -np.log(both) / 2)
    # Of those with a context, five, 1 is two; after 0 come two kinds in three, 1 twice.
    alone = (2 + 3 / 3) / (5 + 3)
    assert np.isclose(module.ngram_loss(train, np.array([0, 1]), 3, order=2), -np.log((2 + 2 * alone) / (3 + 2)))
