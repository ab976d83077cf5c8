"""Code run elsewhere than in the test: in several threads at once, or in a fresh interpreter."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import fastrnn

__all__ = ["ended", "in_threads", "output_of", "run_python"]

# Variables that a developer may have set, and that must not change what a test does.
_OURS = ("FASTRNN_", "OMP_", "OPENBLAS_", "MKL_", "GOMP_", "KMP_")


def in_threads(engine: str, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run each job in a thread of its own, all starting at once.

    The engine is selected in each thread, because a selection holds for one thread only.
    """
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> Any:
        with fastrnn.engines.use(engine):
            barrier.wait(60)
            return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs))


def run_python(code: str, *, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter, which can import this fastrnn and the modules beside this file.

    `environment` gives additional environment variables.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    paths = [
        str(Path(fastrnn.__file__).parents[1]),
        str(Path(__file__).parent),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    return subprocess.run(
        [sys.executable, "-c", dedent(code)],
        env=inherited | {"PYTHONPATH": os.pathsep.join(paths)} | environment,
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def output_of(code: str, *, timeout: float = 120, **environment: str) -> str:
    """Return what the code prints, in a fresh interpreter; fail if its exit status is not 0."""
    done = run_python(code, timeout=timeout, **environment)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def ended(child: int) -> int:
    """The status of a child that ends within 20 seconds."""
    for _ in range(2000):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")
