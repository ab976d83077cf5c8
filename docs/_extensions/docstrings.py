"""Docstrings are written to be read as they stand, too: what reStructuredText would take for something else is here."""

import re
from typing import Any

from sphinx.application import Sphinx

INITIAL = re.compile(r"^(\s*)([A-Z])\. ")  # of a person: a line that begins with it would be an item of a list
DOCUMENT = re.compile(r"(?<![\w/`])docs/([\w-]+)\.md")
ATTRIBUTE = re.compile(r":obj:`(\w+) <\.\w+>`")  # numpydoc's link to the attribute of any class


def before_numpydoc(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape initials, and link documents."""
    lines[:] = [DOCUMENT.sub(r":doc:`docs/\1.md </\1>`", INITIAL.sub(r"\1\\\2. ", line)) for line in lines]


def after_numpydoc(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Link attributes to those of the class itself."""
    lines[:] = [ATTRIBUTE.sub(rf":obj:`\1 <{name}.\1>`", line) for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", before_numpydoc, priority=100)
    app.connect("autodoc-process-docstring", after_numpydoc, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
