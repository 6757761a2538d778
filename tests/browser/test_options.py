"""Options, prompts, presets, adapters, and what plugins add."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.chat_page import ChatPage
from support.page_server import PageServer, page_server
from support.scripted_engine import Script

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def server(browser: Any, chat_model: Path) -> Iterator[PageServer]:
    """A server with a sampler of a plugin, and a plugin that extends the page."""
    folders = [str(EXAMPLES / name) for name in ("llamafw-token-panel", "llamafw-smooth")]
    sys.path[:0] = folders
    plugins = ("llamafw_token_panel", "llamafw_smooth")
    try:
        with page_server(chat_model, plugin=plugins, metrics=True) as server:
            yield server
    finally:
        for folder in folders:
            sys.path.remove(folder)
        for name in plugins:
            sys.modules.pop(name, None)


def test_options_of_all_samplers_are_offered(chat: ChatPage, script: Script) -> None:
    chat.show_panel("Sampling")
    chat.page.locator("#option-temperature").wait_for()
    document = chat.page.evaluate("fetch('openapi.json').then((response) => response.json())")
    properties = document["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    of_samplers = {name for name, schema in properties.items() if "x-llamafw-sampler" in schema}
    assert {"top_k", "dry_base", "smoothing_factor"} <= of_samplers
    shown = chat.page.locator("[id^=option-]").evaluate_all("all => all.map(({id}) => id.slice(7))")
    assert of_samplers <= set(shown)

    chat.page.get_by_label("Filter options").fill("smoothing")
    option = chat.page.locator(".option").first
    assert properties["smoothing_factor"]["description"].split(". ")[0].split("`")[0] in option.inner_text()
    assert "Default: 0" in option.inner_text()


def test_changed_options_are_sent_kept_and_reset(chat: ChatPage, script: Script) -> None:
    chat.show_panel("Sampling")
    chat.page.get_by_role("spinbutton", name="temperature").fill("0.25")
    chat.page.get_by_label("stop", exact=True).fill("END\\n\nUser:")
    chat.send("Hello")
    request = script.requests[-1]
    assert (request.options["temperature"], request.stop) == (0.25, ("END\n", "User:"))
    assert request.options["top_k"] == 40  # the server's default
    chat.page.reload()
    chat.show_panel("Sampling")
    assert chat.page.get_by_role("spinbutton", name="temperature").input_value() == "0.25"
    chat.button("Reset temperature to its default").click()
    chat.page.get_by_text("1 changed").first.wait_for()
    chat.button("Reset all").click()
    chat.send("Again")
    assert (script.requests[-1].options["temperature"], script.requests[-1].stop) == (0.8, ())


def test_order_of_samplers_can_be_changed(chat: ChatPage, script: Script) -> None:
    chat.show_panel("Sampling")
    chat.page.get_by_label("Filter options").fill("samplers")
    chat.button("Remove dry").click()
    chat.button("Move temperature up").click()
    chat.send("Hello")
    samplers = script.requests[-1].samplers
    assert "dry" not in samplers
    assert samplers[-2:] == ("temperature", "xtc")


def test_values_outside_of_their_range_are_not_sent(chat: ChatPage, script: Script) -> None:
    chat.show_panel("Sampling")
    field = chat.page.get_by_role("spinbutton", name="top_p")
    field.fill("7")
    assert field.evaluate("element => !element.checkValidity()")
    chat.page.get_by_label("Filter options").fill("logit_bias")
    chat.page.get_by_label("logit_bias", exact=True).fill("[[1,")
    chat.page.get_by_text("This is not valid JSON, so it is not sent.").wait_for()
    chat.send("Hello")
    assert "You said: Hello" in chat.answer.inner_text()
    assert script.requests[-1].options["top_p"] == 0.95


def test_system_prompt_and_presets_are_used(chat: ChatPage, script: Script) -> None:
    chat.show_panel("Prompt")
    chat.page.get_by_label("System prompt", exact=True).fill("Be brief.")
    chat.page.get_by_label("Name of the preset").fill("Short")
    chat.button("Save as preset").click()
    chat.send("Hello")
    assert "<|im_start|>system\nBe brief." in script.prompts[-1]
    chat.page.get_by_label("System prompt", exact=True).fill("")
    chat.button("New conversation").click()
    chat.send("Hello")
    assert "system" not in script.prompts[-1]
    chat.page.reload()
    chat.show_panel("Prompt")
    chat.button("Use Short").click()
    chat.send("Again")
    assert "<|im_start|>system\nBe brief." in script.prompts[-1]
    chat.button("Delete preset Short").click()
    assert chat.page.get_by_role("button", name="Use Short").count() == 0


def test_preset_has_what_the_page_says(chat: ChatPage) -> None:
    chat.show_panel("Tools")
    chat.page.get_by_label("calculate", exact=True).check()
    chat.show_panel("Sampling")
    chat.page.locator("#option-temperature").fill("0.25")
    chat.show_panel("Prompt")
    hint = chat.page.get_by_text("A preset keeps the system prompt, all options and the chosen tools under a name.")
    hint.wait_for()
    chat.page.get_by_label("System prompt", exact=True).fill("Be brief.")
    chat.page.get_by_label("Name of the preset").fill("All")
    chat.button("Save as preset").click()
    chat.page.get_by_label("System prompt", exact=True).fill("")
    chat.show_panel("Sampling")
    chat.page.locator("#option-temperature").fill("0.75")
    chat.show_panel("Tools")
    chat.page.get_by_label("calculate", exact=True).uncheck()

    chat.show_panel("Prompt")
    chat.button("Use All").click()
    assert chat.page.get_by_label("System prompt", exact=True).input_value() == "Be brief."
    chat.show_panel("Tools")
    assert chat.page.get_by_label("calculate", exact=True).is_checked()
    chat.show_panel("Sampling")
    assert chat.page.locator("#option-temperature").input_value() == "0.25"


def test_server_panel_shows_the_model_and_its_speed(chat: ChatPage, script: Script) -> None:
    with chat.page.expect_response("**/metrics"):
        chat.show_panel("Server")
    assert "chat.gguf" in chat.page.get_by_role("tabpanel").inner_text()
    for name in ("writing: 0 tokens/s now", "reading: 0 tokens/s now", "0 running, 0 waiting"):
        chat.page.get_by_role("img", name=name).wait_for()
    chat.send("Hello")
    chat.page.get_by_role("img", name=re.compile("writing: .* at most [1-9]")).wait_for()


def test_plugin_adds_a_panel_and_an_action(chat: ChatPage, script: Script) -> None:
    script.answers = ["the end"]
    chat.send("Hello")
    chat.button("Tokens", chat.answer).click()
    panel = chat.page.get_by_role("tabpanel", name="Tokens")
    panel.get_by_text("Number of tokens:").wait_for()
    pieces = panel.get_by_role("listitem").locator("code").all_inner_texts()
    assert "".join(pieces).replace("␣", " ").strip() == "the end"


def test_plugin_that_fails_is_named(chat: ChatPage, script: Script) -> None:
    chat.page.route("**/token-panel.js", lambda route: route.fulfill(content_type="text/javascript", body="throw 1"))
    chat.page.reload()
    chat.page.get_by_text("A plugin's part of this page failed: 1").wait_for()
    chat.send("Hello")
    assert "You said: Hello" in chat.answer.inner_text()


ADAPTERS = [
    {"id": 0, "path": "/models/poet.gguf", "scale": 1.0},
    {"id": 2, "path": "/models/lawyer.gguf", "scale": 0.5},
]


def test_scales_of_adapters_are_sent_for_the_conversation(open_page: Callable[..., ChatPage], script: Script) -> None:
    chat = open_page()
    chat.page.route("**/lora-adapters", lambda route: route.fulfill(json=ADAPTERS))
    chat.show_panel("Sampling")
    assert chat.page.get_by_role("spinbutton", name="lawyer.gguf").input_value() == "0.5"
    chat.page.get_by_role("spinbutton", name="poet.gguf").fill("0.25")
    chat.page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=400, json={"error": {"param": "lora"}})
    )
    chat.expected.append("status of 400")
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        chat.send("Hello")
    assert sent.value.post_data_json["lora"] == [{"id": 0, "scale": 0.25}, {"id": 2, "scale": 0.5}]
    chat.page.unroute("**/v1/chat/completions")
    chat.button("Reset lora", chat.answer).click()
    chat.answer.get_by_text("You said: Hello").wait_for()
    assert chat.page.get_by_role("spinbutton", name="poet.gguf").input_value() == "1"


def test_models_can_be_chosen(open_page: Callable[..., ChatPage], script: Script) -> None:
    def two_models(route: Any) -> None:
        listed = [{"id": id, "object": "model", "created": 0, "owned_by": "x"} for id in ("chat", "other")]
        route.fulfill(json={"object": "list", "data": listed})

    chat = open_page()
    chat.page.route("**/v1/models", two_models)
    chat.page.reload()
    chat.page.get_by_label("Model", exact=True).select_option("other")
    with chat.page.expect_request("**/v1/chat/completions") as sent:
        chat.send("Hello")
    assert sent.value.post_data_json["model"] == "other"
