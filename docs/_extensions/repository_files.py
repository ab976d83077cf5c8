"""Links from documents to files outside docs/, which work on a code host as they are: here they work, too.

A file that is a page of the site (`repository_pages` in conf.py) is linked as that page; its own links, written for the
folder that it lies in, are rewritten for the page that includes it. Each other file or folder becomes a page that shows
it.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s]+)(\))")
LINKED = "repository_files"  # what pages link to, in the environment: a set of paths for each document


def links_of_included(app: Sphinx, file: Path, parent: str, text: list[str]) -> None:
    """Rewrite relative links of a file of `repository_pages` for the page that includes it."""
    path = Path(app.srcdir, file).resolve()
    page = app.config.repository_pages.get(path.relative_to(ROOT).as_posix())
    if page is None:
        return
    here = Path(app.srcdir, page).parent
    text[0] = LINK.sub(lambda m: m[1] + os.path.relpath(path.parent / m[2], here) + m[3], text[0])


class LinksOutside(SphinxTransform):
    """What Markdown makes of links that lead out of docs/: references to pages."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        docs, docname = Path(self.env.srcdir), self.env.docname
        found = [*self.document.findall(addnodes.download_reference), *self.document.findall(addnodes.pending_xref)]
        for node in found:
            if node.get("reftype") != "myst":
                continue
            name, _, anchor = node["reftarget"].partition("#")
            path = Path(os.path.normpath(docs / Path(docname).parent / name))
            if node.get("refdomain") == "doc":  # what Sphinx calls a document, outside docs/ by its absolute path
                path, anchor = path.with_name(f"{path.name}.md"), node.get("reftargetid")
            if path.is_relative_to(docs) or not path.exists():
                continue  # documents of docs/, and links to nothing, which are warnings later
            target = path.relative_to(ROOT).as_posix()
            new = addnodes.pending_xref("", *node.children, refdoc=docname, refexplicit=True)
            page = self.config.repository_pages.get(target)
            if page:
                to = {"refdomain": "doc", "reftype": "myst", "reftarget": page, "reftargetid": anchor or None}
            else:
                to = {"refdomain": "", "reftype": LINKED, "reftarget": target}
                linked(self.env).setdefault(docname, set()).add(target)
            new.attributes.update(to)
            node.replace_self(new)


def linked(env: BuildEnvironment) -> dict[str, set[str]]:
    if not hasattr(env, LINKED):
        setattr(env, LINKED, {})
    return getattr(env, LINKED)


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    linked(env).pop(docname, None)


def merge(app: Sphinx, env: BuildEnvironment, docnames: set[str], other: BuildEnvironment) -> None:
    linked(env).update({name: files for name, files in linked(other).items() if name in docnames})


def resolve(app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.Node) -> nodes.Node | None:
    if node["reftype"] != LINKED:
        return None
    uri = app.builder.get_relative_uri(node["refdoc"], f"files/{node['reftarget']}")
    return nodes.reference("", "", *node.children, internal=True, refuri=uri)


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each linked file, and for each linked folder with its files."""
    targets = {target for files in linked(app.env).values() for target in files}
    folders = {target for target in targets if (ROOT / target).is_dir()}
    within = {f: sorted(p.name for p in (ROOT / f).iterdir() if p.suffix in {".py", ".c", ".h"}) for f in folders}
    for folder, names in within.items():
        base = f"files/{folder}"
        items = (
            f'<li><a href="{app.builder.get_relative_uri(base, f"{base}/{name}")}">{name}</a></li>' for name in names
        )
        yield base, {"title": folder, "body": f"<h1>{folder}</h1><ul>{''.join(items)}</ul>"}, "page.html"
        targets |= {f"{folder}/{name}" for name in names}
    for target in sorted(targets - folders):
        try:
            lexer = get_lexer_for_filename(target).aliases[0]
        except ClassNotFound:
            lexer = TextLexer.aliases[0]
        code = app.builder.highlighter.highlight_block((ROOT / target).read_text("utf-8"), lexer, force=True)
        yield f"files/{target}", {"title": target, "body": f"<h1>{target}</h1>{code}"}, "page.html"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("repository_pages", {}, "env")
    app.add_transform(LinksOutside)
    app.connect("include-read", links_of_included)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("missing-reference", resolve)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
