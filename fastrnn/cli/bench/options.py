"""The values that options of ``fastrnn bench`` accept, and checks that are made before anything is measured."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import click

from fastrnn.bench import PLOT_SUFFIXES
from fastrnn.cli.errors import Failure
from fastrnn.engines.threads import MAX_THREADS
from fastrnn.pages import needs

__all__ = ["check_plot", "check_writable", "interpreters", "one_of", "thread_counts"]


class CommaSeparated(click.ParamType):
    """One or more values with commas between them, each converted and checked by `convert_one`."""

    name = "names"

    def __init__(self, expected: Callable[[], str], convert_one: Callable[[str], Any]) -> None:
        self.expected, self.convert_one = expected, convert_one

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        """Return the values without repetitions; see `click.ParamType.convert`."""
        found = []
        for word in str(value).split(","):
            try:
                found.append(self.convert_one(word.strip()))
            except ValueError:
                self.fail(f"expected {self.expected()}, separated by commas, got {word.strip()!r}", param, ctx)
        return list(dict.fromkeys(found))


def one_of(names: Callable[[], Sequence[str]]) -> CommaSeparated:
    def convert(word: str) -> str:
        if word not in names():
            raise ValueError
        return word

    return CommaSeparated(lambda: f"one or more of {', '.join(names())}", convert)


def thread_counts() -> CommaSeparated:
    def convert(word: str) -> int:
        if not 1 <= int(word) <= MAX_THREADS:
            raise ValueError
        return int(word)

    return CommaSeparated(lambda: f"integers from 1 to {MAX_THREADS}", convert)


def interpreters(context: click.Context, parameter: click.Parameter, names: Sequence[str]) -> list[str]:
    """Return the paths of interpreters that are given by path or by name."""
    paths = []
    for name in names:
        path = shutil.which(name)
        if path is None:
            raise click.BadParameter(f"expected a Python interpreter, got {name!r}", context, parameter)
        paths.append(path)
    return paths


def check_plot(path: str) -> None:
    """Fail now, not after minutes of measuring, if a chart cannot be written at `path`."""
    if not path.lower().endswith(PLOT_SUFFIXES):
        raise Failure(f"--plot: expected a name that ends in {', '.join(PLOT_SUFFIXES)}, got {path!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise Failure(needs("--plot", "matplotlib", "fastrnn[bench]", "performance"))
    check_writable("--plot", path)


def check_writable(option: str, path: str) -> None:
    """Fail now, not after minutes of measuring, if a file cannot be written at `path`; leave it as it is."""
    try:
        if os.path.exists(path):
            open(path, "ab").close()
        else:
            with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))):
                pass
    except OSError as error:
        raise Failure(f"{option}: {path}: cannot write ({error.strerror or error})") from error
