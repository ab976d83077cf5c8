"""``fastrnn info``: print what a bug report needs."""

from __future__ import annotations

import click

import fastrnn

__all__ = ["info"]


@click.command()
def info() -> None:
    """Print version, instruction set, engine, BLAS and threads."""
    fastrnn.show_config()
