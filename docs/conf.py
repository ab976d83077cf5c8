"""The site: `python -m sphinx -W --keep-going -b dirhtml docs site`, with what pip install -e ".[docs]" brings."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

os.environ.setdefault("KERAS_BACKEND", "torch")  # the reference of fastrnn.keras imports it

import fastrnn  # noqa: E402

project = "fastrnn"
author = copyright = "the authors of fastrnn"
version = release = fastrnn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc", "docstrings", "repository_files"]
exclude_patterns = ["_extensions", "figures"]

# Markdown
myst_heading_anchors = 4  # the anchors of a code host: a link to a heading that is not there is a warning
highlight_language = "none"  # of blocks that do not say theirs: equations, commands
repository_pages = {  # files outside docs/ that are pages of the site
    "CHANGELOG.md": "included/changelog",
    "CONTRIBUTING.md": "included/contributing",
    "README.md": "index",
    "benchmarks/README.md": "included/benchmarks",
    "csrc/README.md": "included/csrc",
}

# The reference: docstrings of the modules as they are installed
default_role = "py:obj"  # a name in backticks is a link where it is one of ours
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # docstrings say more: shapes
numpydoc_show_class_members = False  # autodoc shows them
numpydoc_class_members_toctree = False
python_display_short_literal_types = True
maximum_signature_line_length = 100
add_module_names = False
toc_object_entries_show_parents = "hide"

# The site, which asks nothing of other servers
html_theme = "pydata_sphinx_theme"
html_title = "fastrnn"
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "https://fastrnn.readthedocs.io/en/latest/")
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}  # light or dark as the reader's system is, until chosen
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "fastrnn"},
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 6,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "github-light",
    "pygments_dark_style": "github-dark",
}
html_sidebars = {page: [] for page in ("index", "gallery", "included/changelog")}  # sections of one page
