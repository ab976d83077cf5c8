"""Docstrings are written to be read as they stand, too: what reStructuredText would take for something else is here."""

import re
from typing import Any

from sphinx.application import Sphinx

NO_ITEM = re.compile(r"^(\s*)(?=[A-Z]\. |\w\.$)")  # the initial of a person, or a size: no item of a list
DOCUMENT = re.compile(r"(?<![\w/`])docs/([\w/-]+)\.md")
ATTRIBUTE = re.compile(r":obj:`(\w+) <\.\w+>`")  # numpydoc's link to the attribute of any class


def before_numpydoc(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what only looks like a list, and link documents."""
    lines[:] = [DOCUMENT.sub(r":doc:`docs/\1.md </\1>`", NO_ITEM.sub(r"\1\\", line)) for line in lines]


def after_numpydoc(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Link attributes to those of the class itself."""
    lines[:] = [ATTRIBUTE.sub(rf":obj:`\1 <{name}.\1>`", line) for line in lines]


def signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, arguments: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """A protocol is not called."""
    return ("", None) if getattr(obj, "_is_protocol", False) else None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", before_numpydoc, priority=100)
    app.connect("autodoc-process-docstring", after_numpydoc, priority=900)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
