"""The command line, ``fastrnn``: one module for each command, which uses the public parts of the package.

A command is a click command object in a module of this package; `group` below lists them all.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastrnn.pages import needs

if TYPE_CHECKING:
    import click

__all__ = ["end_if_running", "group", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 2 for a user's error (one line on stderr), 130 for Ctrl-C.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.
    """
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        said = needs("the command line", str(error.name), "fastrnn[cli]", "how-to/install")
        print(f"fastrnn: {said}", file=sys.stderr)
        sys.exit(2)
    group()(arguments)


def end_if_running(error: Exception) -> None:
    """End this process with one line on stderr and exit code 2 if it is the command, not a program of someone's.

    For errors of importing the package itself, before `main` can be called.
    """
    words: Sequence[str] = getattr(sys, "argv", ())  # a program that embeds Python may have none
    running = words[0] if words else ""
    if running == "-m":  # so it is called while Python looks for the module
        running = next((b for a, b in itertools.pairwise(sys.orig_argv) if a.startswith("-") and a.endswith("m")), "")
    if Path(running).stem == "fastrnn":
        print(f"fastrnn: error: {error}", file=sys.stderr)
        sys.exit(2)


def group() -> click.Group:
    """Return the click group with all commands."""
    # Imported here because these modules need click and rich, and `main` must work without them.
    from fastrnn.cli.bench import bench
    from fastrnn.cli.demo import demo
    from fastrnn.cli.errors import OneLineErrors
    from fastrnn.cli.info import info
    from fastrnn.cli.sample import sample

    commands = [demo, sample, bench, info]
    return OneLineErrors("fastrnn", commands=commands, help="The fastest recurrent layers on a CPU.")
