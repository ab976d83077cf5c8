"""The command line, ``fastrnn``: one module for each command, which uses the public parts of the package.

A command is a click command object in a module of this package; `group` below lists them all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

__all__ = ["group", "main"]


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
        print(f'fastrnn: the command line needs {error.name}: pip install "fastrnn[cli]"', file=sys.stderr)
        sys.exit(2)
    group()(arguments)


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
