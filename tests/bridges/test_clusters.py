"""Scoring under Dask and Spark: the examples, on clusters of two processes of this machine."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastrnn

EXAMPLES = Path(__file__).parents[2] / "examples"


def scored(example: str, **environment: str) -> None:
    """One model in each worker, one thread a call, and the same answers as in one process."""
    environment = os.environ | {"PYTHONPATH": str(Path(fastrnn.__file__).parents[1])} | environment
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, "--quick"],
        env={name: value for name, value in environment.items() if not name.endswith("_NUM_THREADS")},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) models in (\d+) workers, threads of a call: (\d+)\n", done.stdout)
    assert found is not None, done.stdout + done.stderr
    models, workers, threads = map(int, found.groups())
    assert models == workers
    assert workers in (1, 2)  # one may have done all before the other was there
    assert threads == 1
    assert "the same answers as here: True\n" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="Dask is not installed")
def test_dask() -> None:
    scored("dask_scoring.py")


@pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="Spark is not installed")
@pytest.mark.skipif(
    "JAVA_HOME" not in os.environ and shutil.which("java") is None, reason="there is no Java, which Spark needs"
)
def test_spark() -> None:
    scored("spark_scoring.py", JDK_JAVA_OPTIONS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")  # starts in half the time
