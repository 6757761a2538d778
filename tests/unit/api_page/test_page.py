"""The page at /docs: what it shows, and how it is served."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from llamafw import Settings
from llamafw.plugins import Plugins
from llamafw.spec import merged_document, operation_ids
from llamafw_plugins.api_page.fields import Field, Fields
from llamafw_plugins.api_page.page import render_page

DOCUMENT = merged_document(Plugins(), Settings())
PAGE = render_page(DOCUMENT, Settings())


class Tags(HTMLParser):
    """Collects the start tags of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)


def ids_in(page: str, css_class: str) -> list[str | None]:
    """Return the ids of the elements with a class."""
    return [attributes.get("id") for _, attributes in Tags(page).tags if attributes.get("class") == css_class]


def test_page_shows_every_operation_once_and_aliases_below_it() -> None:
    ids = ids_in(PAGE, "operation")
    assert len(ids) == len(set(ids)) > 40
    assert set(ids) < set(operation_ids(DOCUMENT))
    for path in DOCUMENT["paths"]:
        assert f">{html.escape(path)}</code>" in PAGE
    for tag in DOCUMENT["tags"]:
        assert f'<h2 id="group-{tag["name"]}">{tag["name"]}</h2>' in PAGE
        assert html.escape(tag["description"], quote=False) in PAGE


def test_ids_are_unique_and_links_within_the_page_exist() -> None:
    tags = Tags(PAGE).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {str(attributes["href"]) for tag, attributes in tags if tag == "a"}
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert "../openapi.json" in links


def test_page_has_nothing_that_the_policy_forbids() -> None:
    tags = Tags(PAGE).tags
    scripts = [attributes for tag, attributes in tags if tag == "script"]
    assert [script["src"] for script in scripts] == ["page.js"]
    assert not [tag for tag, attributes in tags if tag == "style" or "style" in attributes]
    assert not [tag for tag, attributes in tags if any(name.startswith("on") for name in attributes)]
    loaded = [attributes.get("src") or attributes["href"] for tag, attributes in tags if tag in ("script", "link")]
    assert loaded == ["data:,", "page.css", "page.js"]


@pytest.mark.parametrize(("settings", "has_key"), [({}, False), ({"api_key": ("k",)}, True)])
def test_samples_have_a_key_if_the_server_has_one(settings: dict[str, Any], has_key: bool) -> None:
    assert ("Bearer YOUR_KEY" in render_page(DOCUMENT, Settings(**settings))) is has_key


def field_of(schema: dict[str, Any]) -> Field:
    """Return how a field with a schema is described."""
    fields, _ = Fields({"components": {"schemas": {"Tree": TREE}}}).of({"properties": {"x": schema}})
    return fields[0]


NUMBER = {"type": "number"}
TREE = {"type": "object", "properties": {"leaf": {"type": "string"}, "sub": {"$ref": "#/components/schemas/Tree"}}}


@pytest.mark.parametrize(
    ("schema", "type", "limits"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 2**31 - 1, "default": 4}, "integer", "default 4, at least 0"),
        ({"type": "string", "enum": ["a", None, "b"], "nullable": True}, '"a" | "b"', ""),
        ({"anyOf": [{"type": "string"}, {"type": "array", "items": NUMBER}]}, "string or array of number", ""),
        ({"type": "array", "items": {"anyOf": [{"type": "string"}, NUMBER]}}, "array of (string or number)", ""),
        ({"type": "array", "minItems": 1, "maxItems": 3}, "array of any", "at least 1 items, at most 3 items"),
        ({"type": "string", "default": ""}, "string", 'default ""'),
        ({"allOf": [{"$ref": "#/components/schemas/Tree"}]}, "object", ""),
        ({}, "any", ""),
    ],
)  # fmt: skip  # a table
def test_fields_are_described_in_words(schema: dict[str, Any], type: str, limits: str) -> None:
    field = field_of(schema)
    assert (field.type, field.limits) == (type, limits)


def test_schemas_that_contain_themselves_end() -> None:
    field = field_of({"$ref": "#/components/schemas/Tree"})
    assert [inner.name for inner in field.fields] == ["leaf", "sub"]
    assert field.fields[1].fields == ()


def test_fields_of_every_generating_operation_are_shown_once() -> None:
    n_links = PAGE.count('<a href="#shared">')
    assert n_links >= 5
    assert PAGE.count('<code class="name">min_p</code>') < n_links
    fields, has_shared = Fields(DOCUMENT).of({"$ref": "#/components/schemas/CompletionRequest"})
    assert has_shared
    assert "prompt" in [field.name for field in fields]
    shared = {field.name: field for field in Fields(DOCUMENT).shared()}
    assert shared["min_p"].sampler == "min_p"
    assert not shared.keys() & {field.name for field in fields}


async def test_defaults_are_those_of_the_server(serve: Callable[..., Any]) -> None:
    async with serve(temp=0.25) as client:
        page = (await client.get("/docs/")).text
    assert re.search(r'<code class="name">temperature</code>.{0,900}?default 0\.25', page, re.S)


@pytest.mark.parametrize("prefix", ["", "/llm"])
async def test_page_and_files_need_no_key(serve: Callable[..., Any], prefix: str) -> None:
    async with serve(api_key=("k",), api_prefix=prefix) as client:
        moved = await client.get(f"{prefix}/docs")
        assert (moved.status_code, moved.headers["location"]) == (307, "docs/")
        page = await client.get(f"{prefix}/docs/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert f'data-address="http://127.0.0.1:8080{prefix}"' in page.text
        for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
            file = await client.get(f"{prefix}/docs/{name}")
            assert (file.status_code, file.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
            assert "://" not in file.text
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
        assert "unsafe" not in policy
        head = await client.head(f"{prefix}/docs/")
        assert (head.status_code, head.content) == (200, b"")
        wrong = await client.post(f"{prefix}/docs/")
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (405, "method_not_allowed_error")
        assert (await client.get(f"{prefix}/docs/page.html")).status_code == 404
