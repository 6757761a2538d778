"""Tests of the prompts against the model card, and in a server."""

from typing import Any

import pytest
from llamafw_openchat import OpenChat

from llamafw import ChatContext, RequestError
from llamafw.testing.conformance import ChatFormatConformance, PluginConformance

HELLO = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "How are you today?"},
]
PROMPT = (  # the model card, "Conversation templates"
    "<s>GPT4 Correct User: Hello<|end_of_turn|>GPT4 Correct Assistant: Hi<|end_of_turn|>"
    "GPT4 Correct User: How are you today?<|end_of_turn|>GPT4 Correct Assistant:"
)


def test_prompt_matches_the_model_card() -> None:
    assert OpenChat(ChatContext(bos_token="<s>")).render(HELLO) == PROMPT


def test_unknown_roles_are_refused() -> None:
    with pytest.raises(RequestError, match="not have the role 'tool'"):
        OpenChat(ChatContext()).render([{"role": "tool", "content": "1"}])


async def test_server_renders_the_format_with_its_mode(serve: Any) -> None:
    async with serve(chat_template="openchat") as client:
        body: dict[str, Any] = {"messages": HELLO, "chat_template_kwargs": {"mode": "math"}}
        prompt = (await client.post("/apply-template", json=body)).json()["prompt"]
        assert prompt.endswith("Math Correct User: How are you today?<|end_of_turn|>Math Correct Assistant:")
        assert (await client.post("/v1/chat/completions", json={**body, "max_tokens": 3})).status_code == 200

        body["chat_template_kwargs"] = {"mode": "poetry"}
        error = (await client.post("/v1/chat/completions", json=body)).json()["error"]
        assert (error["code"], error["param"]) == (400, "chat_template_kwargs.mode")


class TestOpenChat(ChatFormatConformance):
    name = "openchat"


class TestPlugin(PluginConformance):
    name = "llamafw-openchat"
