"""The documentation: which of its pages `fastrnn info` and error messages lead to."""

from __future__ import annotations

__all__ = ["SITE", "page"]

SITE = "https://fastrnn.readthedocs.io/en/latest/"


def page(name: str) -> str:
    """Return the address of docs/`name`.md on the site."""
    return f"{SITE}{name}/"
