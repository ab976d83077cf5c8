"""Example systems reach their bars on generated data; .ci/run runs them, too, outside of the tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["frames", "forecaster"])
def test_a_system_reaches_its_bar(name):
    pytest.importorskip("click")
    if name == "forecaster":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    if not EXAMPLES.is_dir():
        pytest.skip("examples are not here")
    path = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--quick"]
    command += ["--precisions"] if name == "forecaster" else []
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "macro F1" in run.stdout or "RMSE" in run.stdout
