"""A Sphinx extension that shows the source files and folders to which pages link, as pages of the site."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes

PREFIX = "source/"  # of the pages' names
_LINK = re.compile(r"(\]\()([^)#\s:]+)(\))")
_HIDDEN = ("__pycache__", "node_modules", ".")


def _name_files_of_folders(app: Any, docname: str, source: list[str]) -> None:
    """Make links to folders lead to their README."""
    folder = Path(app.srcdir, docname).parent

    def replace(match: re.Match[str]) -> str:
        has_readme = (folder / match[2] / "README.md").is_file()
        return f"{match[1]}{match[2].rstrip('/')}/README.md{match[3]}" if has_readme else match[0]

    source[0] = _LINK.sub(replace, source[0])


def _link_source_pages(app: Any, doctree: nodes.document) -> None:
    """Make links to files and folders lead to their pages, instead of downloads."""
    folder = os.path.dirname(app.env.docname)
    for node in list(
        doctree.findall(lambda node: isinstance(node, addnodes.download_reference | addnodes.pending_xref))
    ):
        path = os.path.normpath(os.path.join(folder, node["reftarget"])).replace(os.sep, "/")
        is_folder = node.get("reftype") == "myst" and Path(app.srcdir, path).is_dir()
        if isinstance(node, addnodes.download_reference) or is_folder:
            node.replace_self(_reference(app, path, node.children))


def _reference(app: Any, path: str, children: list[nodes.Node]) -> nodes.reference:
    pages = _pages(app)
    pages.add(path)
    if Path(app.srcdir, path).is_dir():
        pages.update(f"{path}/{child.name}" for child in _children(Path(app.srcdir, path)) if child.is_file())
    return nodes.reference("", "", *children, internal=True, source_page=path)


def _pages(app: Any) -> set[str]:
    """Return the paths of all files and folders that have pages."""
    if not hasattr(app.env, "llamafw_source_pages"):
        app.env.llamafw_source_pages = set()
    pages: set[str] = app.env.llamafw_source_pages
    return pages


def _set_addresses(app: Any, doctree: nodes.document, docname: str) -> None:
    """Set the addresses of links to source pages, which depend on the page."""
    folder = os.path.dirname(docname) or "."
    for node in doctree.findall(lambda node: isinstance(node, nodes.reference) and "source_page" in node):
        address = os.path.relpath(f"{PREFIX}{node['source_page']}.html", folder)
        node["refuri"] = address.replace(os.sep, "/")


def _make_pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the name, the content and the template of each source page."""
    for path in sorted(_pages(app)):
        file = Path(app.srcdir, path)
        body = _folder_html(app, path) if file.is_dir() else _file_html(app, file)
        title = html.escape(path)
        yield f"{PREFIX}{path}", {"title": title, "body": f"<h1>{title}</h1>{body}"}, "page.html"


def _file_html(app: Any, file: Path) -> str:
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        return f"<p>A binary file of {file.stat().st_size} bytes.</p>"
    try:
        language = get_lexer_for_filename(file.name).aliases[0]
    except ClassNotFound:
        language = "text"
    return str(app.builder.highlighter.highlight_block(text, language))


def _folder_html(app: Any, path: str) -> str:
    items = []
    for child in _children(Path(app.srcdir, path)):
        name = html.escape(child.name)
        inside = f"{path}/{child.name}"
        address = f"{os.path.basename(path)}/{name}.html"
        items.append(f'<li><a href="{address}">{name}</a></li>' if inside in _pages(app) else f"<li>{name}</li>")
    return f"<ul>{''.join(items)}</ul>"


def _children(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.name.startswith(_HIDDEN))


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("source-read", _name_files_of_folders)
    app.connect("doctree-read", _link_source_pages, priority=400)  # before Sphinx copies the files
    app.connect("doctree-resolved", _set_addresses)
    app.connect("html-collect-pages", _make_pages)
    return {"parallel_read_safe": False, "parallel_write_safe": False}
