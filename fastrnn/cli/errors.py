"""How commands end: what they print and their exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

__all__ = ["Failure", "OneLineErrors"]


class Failure(click.ClickException):
    """An error of the user, of which only the message is printed."""


class OneLineErrors(click.Group):
    """A group whose commands end with one line on stderr and exit code 2 instead of a usage text or a traceback."""

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
        standalone_mode: bool = True, **extra: Any,
    ) -> Any:  # fmt: skip
        """Run a command and exit; see `click.Command.main`. Without `standalone_mode`, exceptions come through."""
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()  # now, where an error can be caught
            if not standalone_mode:
                return code
        except Exception as error:
            if not standalone_mode:
                raise
            end(error)
        sys.exit(code if isinstance(code, int) else 0)


def end(error: Exception) -> NoReturn:
    """Print what went wrong, and exit. Any error that is not the user's is raised again and ends in a traceback."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
    elif isinstance(error, click.ClickException):
        say(error.format_message())
    elif isinstance(error, MemoryError):
        say(f"not enough memory: {error}" if str(error) else "not enough memory")
    elif isinstance(error, click.Abort):
        click.echo("fastrnn: interrupted", err=True)
        sys.exit(130)
    elif isinstance(error, BrokenPipeError):  # the reader of the pipe has ended
        forget_output()
        sys.exit(1)
    elif isinstance(error, OSError):  # such as a full disk
        say(f"{error.filename or 'output'}: {error.strerror or error}")
        forget_output()
    else:
        raise error
    sys.exit(2)


def forget_output() -> None:
    """Python flushes stdout at exit, which must not fail a second time."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(message: str) -> None:
    """Print a message as one line on stderr, if there is room for it."""
    with contextlib.suppress(OSError):
        click.echo(f"fastrnn: error: {' '.join(message.split())}", err=True)
