"""Sphinx's configuration of the documentation as a site, which ``make site`` builds from the Markdown files.

The files stay as they are, so they can also be read where the repository is. `navigation` and `source_pages` add what
they lack as a site: the menu, and pages for the source files that they link to.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

project = "llamafw"
author = copyright = "the llamafw team"

extensions = ["myst_parser", "navigation", "source_pages"]
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

html_theme = "furo"
html_title = "llamafw"
html_favicon = "../../plugins/llamafw_plugins/webui/source/src/icon.svg"
html_copy_source = False
html_extra_path = ["index.html"]  # leads to docs/index.html
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}
