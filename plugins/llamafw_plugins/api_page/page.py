"""Make the HTML of the page from the API document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from llamafw import Settings
from llamafw_plugins.api_page.fields import Fields
from llamafw_plugins.api_page.operations import BASE_URL, groups_of, prefix_of
from llamafw_plugins.api_page.samples import LANGUAGES

_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")  # descriptions of plugins must not run scripts


def render_page(document: Mapping[str, Any], settings: Settings) -> str:
    """Return the page.

    Parameters
    ----------
    document : mapping
        The API document.
    settings : Settings
        Whether the server has API keys.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["markdown"] = _to_html
    fields = Fields(document)
    with_key = bool(settings.api_key or settings.api_key_file)
    return templates.get_template("page.html").render(
        address=BASE_URL + prefix_of(document),
        info=document["info"],
        groups=groups_of(document, fields, with_key=with_key),
        languages=list(LANGUAGES),
        shared=fields.shared(),
    )


def _to_html(text: str, *, inline: bool = False) -> Markup:
    """Return Markdown as HTML, without a paragraph around it if ``inline`` is set."""
    html = _MARKDOWN.renderInline(text) if inline else _MARKDOWN.render(text)
    return Markup(html)  # markdown-it has escaped HTML in the text
