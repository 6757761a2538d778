"""A Sphinx extension that makes the site's menu from the links of the pages that lead to others.

Each heading of a page in `HUBS` becomes a part of the menu, with the pages that are linked in the table below it. A
page that none of these tables leads to is a warning, and ``make site`` fails.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

HUBS = ("docs/index", "docs/plugins/index", "docs/gallery")
"""Pages that lead to all others. The menu has a page below the first of them that links to it."""

_HEADING = re.compile(r"^(#+) (.*)$")
_LINK = re.compile(r"\]\(([^)#\s:]+)\)")  # without those to a section


def entries_of(folder: str, text: str, root: Path) -> dict[str, list[str]]:
    """Return the pages that the tables in each section of a page link to.

    Parameters
    ----------
    folder : str
        The page's folder, relative to ``root``.
    text : str
        Its Markdown.
    root : Path
        The folder of all pages.
    """
    entries: dict[str, list[str]] = {}
    heading = ""
    for line in text.splitlines():
        if match := _HEADING.match(line):
            heading = "" if match[1] == "#" else match[2]
        for link in _LINK.findall(line) if line.startswith("|") else ():
            path = os.path.normpath(os.path.join(folder, link)).replace(os.sep, "/")
            if (root / path / "README.md").is_file():
                path += "/README.md"
            if path.endswith(".md"):
                entries.setdefault(heading, []).append(path.removesuffix(".md"))
    return entries


def sections(root: Path) -> dict[str, list[tuple[str, list[str]]]]:
    """Return the parts of the menu below each page in `HUBS`: headings, and the pages below them."""
    placed = set(HUBS[:1])
    parts: dict[str, list[tuple[str, list[str]]]] = {}
    for hub in HUBS:
        text = (root / f"{hub}.md").read_text("utf-8")
        parts[hub] = []
        for heading, pages in entries_of(os.path.dirname(hub), text, root).items():
            new = [page for page in dict.fromkeys(pages) if page not in placed]
            placed.update(new)
            if new:
                parts[hub].append((heading, new))
    return parts


def _add_menu(app: Any, docname: str, source: list[str]) -> None:
    """Append the parts of the menu to a page in `HUBS`, as hidden lists of pages."""
    if docname in HUBS:
        for heading, pages in sections(Path(app.srcdir))[docname]:
            caption = f":caption: {heading}\n" if heading and docname == HUBS[0] else ""
            entries = "\n".join(f"/{page}" for page in pages)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n{caption}\n{entries}\n```\n"


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("source-read", _add_menu)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
