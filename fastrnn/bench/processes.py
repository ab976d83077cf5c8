"""Contenders in processes of their own: started, asked, ended."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import fastrnn
from fastrnn.bench.problems import Results

__all__ = ["WORKER", "ContenderError", "WorkerProcess", "find", "python_path"]

WORKER = Path(__file__).resolve().with_name("worker.py")


def python_path() -> dict[str, str]:
    """Return the environment variable with which another interpreter imports this fastrnn."""
    package = str(Path(fastrnn.__file__).resolve().parents[1])
    return {"PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])}


class ContenderError(Exception):
    """A contender's process could not carry out a command."""


class WorkerProcess:
    """A process that runs `worker.py` for a contender; `close` ends it.

    Parameters
    ----------
    name : str
        A key of `worker.LOADERS` or `worker.MODELS`.
    python : str
        The interpreter that runs it.
    environment : dict of str to str, optional
        Additional environment variables.
    limit : float, optional
        How many seconds a command may take; the process is ended if one takes more. Default: no limit.

    Attributes
    ----------
    version : str
        That of the contender's library, after the first start.
    """

    def __init__(
        self, name: str, python: str, environment: Mapping[str, str] | None = None, limit: float | None = None
    ) -> None:  # fmt: skip
        self.name, self.python, self.version = name, python, ""
        self._environment, self._limit = environment or {}, limit
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None  # what the process writes to stderr

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def start(self, threads: int) -> None:
        """Start the process with this number of threads; end the one before, if there is one.

        Raises
        ------
        ContenderError
            If the interpreter cannot be run, or cannot import the library.
        """
        self.close()
        try:
            self._start(threads)
        except ContenderError:
            self.close()
            raise

    def _start(self, threads: int) -> None:
        count = str(threads)
        environment = {
            **os.environ, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "FASTRNN_NUM_THREADS": count,
            "PJRT_NPROC": count,  # JAX's
            **self._environment,
        }  # fmt: skip
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [self.python, str(WORKER), self.name, count], env=environment, encoding="utf-8",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            )  # fmt: skip
        except OSError as error:
            raise ContenderError(f"{self.python}: {error.strerror or error}") from None
        self.version = self._answer()["version"]

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send the process a command, a method of `worker.Worker`, and return its answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended; `_answer` reports it
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def send(self, do: str, arrays: Mapping[str, NDArray], **arguments: Any) -> None:
        """Send a command with arrays."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "problem.npz")
            np.savez(path, **arrays)  # type: ignore[arg-type]
            self.ask(do, path=path, **arguments)

    def results(self) -> Results:
        """See `contenders.Runner.results`."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "results.npz")
            self.ask("results", path=path)
            with np.load(path) as file:
                return {name: file[name] for name in file.files}

    def measure(self, seconds: float) -> float:
        """See `contenders.Runner.measure`."""
        return float(self.ask("measure", seconds=seconds)["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        line = self._line()
        if not line:
            status = self._process.wait()
            assert self._errors is not None
            self._errors.seek(0)
            last = (self._errors.read().strip().splitlines() or ["nothing on stderr"])[-1]
            self.close()
            raise ContenderError(f"its process ended with status {status}: {last}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer

    def _line(self) -> str:
        """Return the next line of the process, or nothing if it has ended; end it if it takes too long."""
        process, overdue = self._process, threading.Event()
        assert process is not None
        assert process.stdout is not None
        if self._limit is None:
            return process.stdout.readline()

        def end() -> None:
            overdue.set()
            process.kill()

        timer = threading.Timer(self._limit, end)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        if not line and overdue.is_set():
            self.close()
            raise ContenderError(f"took more than {self._limit:g} s")
        return line

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None


Process = TypeVar("Process", bound=WorkerProcess)


def find(
    names: Iterable[str], make: Callable[[str, str], Process], pythons: Sequence[str], threads: int
) -> tuple[list[Process], dict[str, str]]:
    """Start the contenders whose libraries can be imported.

    Parameters
    ----------
    names : iterable of str
        Of contenders.
    make : callable
        From a name and an interpreter to its process, not yet started.
    pythons : sequence of str
        Interpreters. A contender runs in the first one that can import its library.
    threads : int
        The number of threads to start them with.

    Returns
    -------
    list of WorkerProcess
        The contenders that were found, started.
    dict of str to str
        For the name of each other one, why it was not.
    """
    found, missing = [], {}
    for name in names:
        reasons = []
        for python in pythons:
            process = make(name, python)
            try:
                process.start(threads)
            except ContenderError as error:
                reasons.append(f"{python}: {error}")
            else:
                found.append(process)
                break
        else:
            missing[name] = "; ".join(reasons)
    return found, missing
