"""The documentation: which of its pages `fastrnn info` and error messages lead to."""

from __future__ import annotations

__all__ = ["SITE", "needs", "page"]

SITE = "https://fastrnn.readthedocs.io/en/latest/"  # as in pyproject.toml


def page(name: str) -> str:
    """Return the address of docs/`name`.md on the site."""
    return SITE if name == "index" else f"{SITE}{name}/"


def needs(what: str, library: str, install: str, name: str) -> str:
    """Return what to say where a library is missing: how to get it, and which page is about it."""
    return f'{what} needs {library}: pip install "{install}"; {page(name)}'
