"""The site: its reference has every public name, its navigation every page, and no formula becomes emphasis.

The strict build (.ci/run) finds broken links, anchors and names that do not exist; this needs no Sphinx.
"""

import ast
import os
import re
from pathlib import Path

import pytest

from fastrnn.pages import SITE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DIRECTIVE = re.compile(r"^\.\. ((?:current)?module|auto\w+):: (\S+)$", re.MULTILINE)
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKDOWN = [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "csrc/README.md", ROOT / "benchmarks/README.md"]
INTERNAL = {  # modules whose names users have from elsewhere, or not at all
    "arguments", "bench", "cli", "config", "frozen", "layers", "masks", "noise", "pages", "params", "run", "segments",
    "stack", "validate",
}  # fmt: skip


def exported(path: Path) -> list[str]:
    """A module's `__all__`, read off its source, so that no other library is needed."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def public_names() -> set[str]:
    names = set()
    for path in (*ROOT.glob("fastrnn/*.py"), *ROOT.glob("fastrnn/*/__init__.py")):
        module = ".".join((path.parent if path.name == "__init__.py" else path.with_suffix("")).relative_to(ROOT).parts)
        if module.partition(".")[2] not in INTERNAL:
            names |= {f"{module}.{name}" for name in exported(path)}
    return names - {f"fastrnn.{name}" for name in exported(ROOT / "fastrnn/__init__.py") if is_module(name)}


def is_module(name: str) -> bool:
    return (ROOT / f"fastrnn/{name}.py").exists() or (ROOT / f"fastrnn/{name}").is_dir()


def test_reference_has_every_public_name() -> None:
    documented, module = set(), ""
    for page in DOCS.glob("reference/*.md"):
        for directive, name in DIRECTIVE.findall(page.read_text("utf-8")):
            if directive.endswith("module"):
                module = name
            else:
                documented.add(f"{module}.{name}")
    assert documented == public_names()


def test_pages_that_messages_lead_to_are_there() -> None:
    """By `fastrnn.pages` or, in what cannot import it, as an address."""
    named = {
        name
        for path in (ROOT / "fastrnn").rglob("*.py")
        for name in re.findall(r"""(?:\bpage\(|needs\(.*, )["']([\w/-]+)["']\)""", path.read_text("utf-8"))
    }
    assert {"how-to/onnx", "how-to/install", "threads"} <= named
    for name in named:
        assert (DOCS / f"{name}.md").exists()
    assert f'Documentation = "{SITE}"' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_navigation_has_every_page() -> None:
    listed = ["index"]
    for page in DOCS.rglob("*.md"):
        for toctree in TOCTREE.findall(page.read_text("utf-8")):
            for line in (line.strip() for line in toctree.splitlines()):
                if line and not line.startswith(":"):
                    name = re.sub(r".*<(.*)>", r"\1", line)
                    listed.append(os.path.relpath(page.parent / name, DOCS))
    pages = [os.path.relpath(page, DOCS).removesuffix(".md") for page in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted(pages)


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_products_are_code(page: Path) -> None:
    """Two stars within words are emphasis to Markdown: 2*T*B needs backticks."""
    text = re.sub(r"^```.*?^```|^ {4,}.*?$|`[^`]*`", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    blocks = re.split(r"\n\s*\n|\||\n(?=\s*(?:[-#]|\d+\.) )", text)
    wrong = [block for block in blocks if len(re.findall(r"[\w)']\*[\w(]", block)) > 1]
    assert not wrong
