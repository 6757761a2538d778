"""Sphinx's configuration of the documentation as a site, which ``make site`` builds from the Markdown files.

The files stay as they are, so they can also be read where the repository is. Extensions beside this file add what they
lack as a site: `navigation` the menu, `source_pages` the source files that they link to, and `api_reference` the
docstrings of what plugins may use.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

project = "llamafw"
author = copyright = "the llamafw team"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "api_reference",
    "navigation",
    "source_pages",
]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**.md",
    "examples/*/README.md",
]
exclude_patterns = ["**/node_modules"]
myst_heading_anchors = 6  # as in the repository
suppress_warnings = ["misc.highlighting_failure"]  # code blocks have placeholders

# Docstrings of llamafw, which are in reStructuredText and numpy style.
default_role = "py:obj"
napoleon_google_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 100
toc_object_entries = False  # hundreds of names in a page's menu

html_theme = "furo"
html_title = "llamafw"
html_favicon = "../../plugins/llamafw_plugins/webui/source/src/icon.svg"
html_copy_source = False
html_extra_path = ["index.html"]  # leads to docs/index.html
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}
