"""The page at /docs: samples, requests with keys, the menu, screen readers and phones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api_page import ApiPage
from support.chat_page import DESKTOP, PHONE
from support.page_server import PageServer, page_server
from support.scripted_engine import Script

AXE = Path(__file__).parents[1] / "clients/node_modules/axe-core/axe.min.js"
KEY, PREFIX = "secret", "/llm"

PLUGIN = """
from llamafw import hookimpl

@hookimpl
def extend_openapi():
    media = {"application/json": {"schema": {"type": "object"}, "example": {"depth": 2}}}
    operation = {"operationId": "dig", "summary": "Dig a hole", "tags": ["digging"],
                 "requestBody": {"content": media}, "responses": {"200": {"description": "Dug.", "content": media}}}
    return {"paths": {"/dig": {"post": operation}}, "tags": [{"name": "digging", "description": "Holes."}]}

async def dig(call):
    return {"dug": call.body["depth"]}

@hookimpl
def register_endpoints(register):
    register("dig", dig)
"""


@pytest.fixture(scope="module")
def locked_server(browser: Any, chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server with a key, below a prefix, with a plugin that adds an operation."""
    plugin = tmp_path_factory.mktemp("plugin") / "digging.py"
    plugin.write_text(PLUGIN)
    with page_server(chat_model, api_key=(KEY,), api_prefix=PREFIX, plugin=(str(plugin),)) as server:
        server.url += PREFIX
        yield server


@pytest.fixture
def locked_script(locked_server: PageServer) -> Iterator[Script]:
    """What the server's engine answers."""
    yield locked_server.script
    locked_server.script.reset()


@pytest.fixture
def open_docs(browser: Any, locked_server: PageServer, locked_script: Script) -> Iterator[Callable[..., ApiPage]]:
    """Return a function that opens the page in a new profile; the page must end without unexpected problems."""
    pages: list[ApiPage] = []

    def open_docs(path: str = "/docs/", **options: Any) -> ApiPage:
        options = {"viewport": DESKTOP, "permissions": ["clipboard-read", "clipboard-write"], **options}
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)
        pages.append(ApiPage(context.new_page(), locked_server.url))
        return pages[-1].open(path)

    yield open_docs
    for page in pages:
        page.page.context.close()
    assert [page.problems for page in pages] == [[] for _ in pages]


@pytest.fixture
def docs(open_docs: Callable[..., ApiPage]) -> ApiPage:
    """The page in a new profile."""
    return open_docs()


def test_key_is_entered_once_and_sent_with_every_request(docs: ApiPage) -> None:
    docs.expected.append("status of 401")
    tokenize = docs.operation("tokenize")
    assert docs.send_request(tokenize).startswith("401 Unauthorized")
    tokenize.get_by_role("button", name="Enter an API key").click()
    docs.page.keyboard.type(KEY)
    assert docs.send_request(tokenize).startswith("200 OK")
    assert len(json.loads(tokenize.locator(".result").inner_text())["tokens"]) > 1

    docs.page.reload()
    dig = docs.operation("dig")
    assert docs.send_request(dig).startswith("200 OK")
    assert json.loads(dig.locator(".result").inner_text()) == {"dug": 2}


def test_operations_of_plugins_name_their_plugin(docs: ApiPage) -> None:
    dig = docs.operation("dig")
    assert dig.locator("summary").get_by_text("plugin digging").is_visible()
    assert dig.get_by_text("adds this operation to the server").is_visible()
    assert docs.page.locator("summary .badge.plugin").count() == 1


def test_streams_are_shown_and_can_be_stopped(docs: ApiPage, locked_script: Script) -> None:
    docs.page.get_by_label("API key").fill(KEY)
    chat = docs.operation("createChatCompletion")
    chat.get_by_label("Example").select_option("stream")
    assert json.loads(chat.get_by_label("Body").input_value())["stream"] is True
    locked_script.answers = ["one two three"]
    assert docs.send_request(chat).startswith("200 OK")
    assert chat.locator(".result").inner_text().rstrip().endswith("data: [DONE]")

    locked_script.hold()
    chat.get_by_role("button", name="Send", exact=True).click()
    chat.get_by_role("button", name="Stop").click()
    chat.get_by_text("Stopped.").wait_for()
    assert chat.get_by_role("button", name="Send", exact=True).is_enabled()


def test_parameters_and_errors_are_shown(docs: ApiPage) -> None:
    docs.expected.append("status of 404")
    docs.expected.append("status of 400")
    model = docs.operation("getModel")
    model.get_by_label("model", exact=True).fill("a/b c")
    assert docs.send_request(model).startswith("404 Not Found")
    docs.page.get_by_label("API key").fill(KEY)
    tokenize = docs.operation("tokenize")
    tokenize.get_by_label("Body").fill("{")
    assert docs.send_request(tokenize).startswith("400 Bad Request")
    assert json.loads(tokenize.locator(".result").inner_text())["error"]["code"] == 400


def test_samples_name_this_server_and_can_be_copied(docs: ApiPage) -> None:
    tokenize = docs.operation("tokenize")
    for language, start in (("curl", "curl "), ("Python", "import httpx"), ("JavaScript", "const response")):
        tokenize.get_by_role("button", name=language, exact=True).click()
        assert docs.sample(tokenize).startswith(start)
        assert f"{docs.url}/tokenize" in docs.sample(tokenize)
        assert "Bearer YOUR_KEY" in docs.sample(tokenize)
    tokenize.get_by_label("Example").select_option("pieces")
    assert "with_pieces" in docs.sample(tokenize)
    tokenize.get_by_role("button", name="Copy").click()
    tokenize.get_by_role("button", name="Copied").wait_for()
    copied = docs.page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == docs.sample(tokenize).strip()

    docs.page.reload()  # the language stays
    assert docs.sample(docs.operation("detokenize")).startswith("const response")


def test_menu_filters_and_opens_operations(docs: ApiPage) -> None:
    menu = docs.page.get_by_role("navigation")
    n_all = menu.get_by_role("listitem").count()
    menu.get_by_label("Filter").fill("Score rerank")
    menu.get_by_text("2 operations").wait_for()
    assert menu.get_by_role("listitem").count() == 2 < n_all
    menu.get_by_role("link", name="/rerank").first.click()
    assert docs.page.locator("#createRerank").get_attribute("open") is not None
    assert docs.page.url.endswith("/docs/#createRerank")
    menu.get_by_label("Filter").fill("")
    assert menu.get_by_role("listitem").count() == n_all


def test_address_opens_its_operation(open_docs: Callable[..., ApiPage]) -> None:
    docs = open_docs("/docs/#getProps")
    assert docs.page.locator("#getProps .try").is_visible()


@pytest.mark.parametrize("view", ["light", "dark", "phone"])
def test_axe_finds_no_violation(open_docs: Callable[..., ApiPage], view: str) -> None:
    if not AXE.is_file():
        pytest.skip("needs the package axe-core for Node: run `make node`")
    scheme, size = ("dark" if view == "dark" else "light"), (PHONE if view == "phone" else DESKTOP)
    docs = open_docs(color_scheme=scheme, reduced_motion="reduce", viewport=size)
    docs.page.get_by_label("API key").fill(KEY)
    for name in ("dig", "tokenize", "changeSlot"):
        opened = docs.operation(name)
        opened.get_by_role("button", name="Python").click()
    docs.send_request(docs.operation("tokenize"))
    docs.page.evaluate(AXE.read_text("utf-8"))
    closed = [[".operation:not([open])"], ["#shared ~ *"]]  # a page of a thousand fields takes axe minutes
    found = docs.page.evaluate(
        "exclude => axe.run({include: [['html']], exclude}).then(({violations}) => violations)", closed
    )
    assert [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]] == []
    assert docs.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_page_can_be_used_with_the_keyboard(docs: ApiPage) -> None:
    docs.page.keyboard.press("Tab")
    assert docs.page.evaluate("document.activeElement.textContent") == "Skip to the operations"
    docs.page.keyboard.press("Enter")
    docs.page.locator("#getHealth > summary").focus()
    docs.page.keyboard.press("Enter")
    docs.page.locator("#getHealth .send").focus()
    docs.page.keyboard.press("Enter")
    docs.page.locator("#getHealth").get_by_text("200 OK").wait_for()


def test_page_can_be_read_without_scripts(browser: Any, locked_server: PageServer) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{locked_server.url}/docs/")
    page.locator("#tokenize > summary").click()
    assert page.locator("#tokenize .sample:visible").inner_text().startswith("curl ")
    assert page.locator("#tokenize .try").is_hidden()
    page.context.close()
