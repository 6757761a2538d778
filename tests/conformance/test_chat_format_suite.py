"""The suite for chat formats names the rule that a format breaks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llamafw import RequestError
from llamafw.testing.conformance import ChatFormatConformance
from llamafw_plugins.chat_formats import chatml
from llamafw_plugins.chat_formats.jinja import JinjaChatFormat
from support.conformance import assert_fails, suite


def chat_format(template: str = chatml.TEMPLATE, **members: Any) -> Any:
    cls = type("Broken", (JinjaChatFormat,), members)
    return suite(ChatFormatConformance, lambda context: cls(template, context))


@pytest.mark.parametrize(
    ("made", "test", "message"),
    [
        (chat_format("{{ messages[-1].content }}"), "messages_are_in_the_prompt_in_order", "is not in the prompt"),
        (
            chat_format(
                "{% for m in messages %}{{ m.content }}{% endfor %}{% if not add_generation_prompt %}y{% endif %}"
            ),
            "generation_prompt_is_appended",
            "does not begin with",
        ),
        (
            chat_format(render=lambda self, messages, **_: messages[0]["content"].upper()),
            "unusual_messages_are_rendered_or_request_errors",
            "no messages raises IndexError",
        ),
        (
            chat_format(chatml.TEMPLATE + "{{ unknown_variable }}"),
            "unknown_variables_are_ignored",
            "has changed the prompt",
        ),
        (chat_format(""), "source_is_text", "is empty"),
    ],
)
def test_broken_rule_is_reported(made: Any, test: str, message: str) -> None:
    assert_fails(getattr(made, f"test_{test}"), message)


def test_request_errors_are_allowed() -> None:
    def render(messages: Any) -> None:
        raise RequestError("no")

    rejects_everything = SimpleNamespace(render=render)
    made = suite(ChatFormatConformance, lambda context: rejects_everything)
    made.test_unusual_messages_are_rendered_or_request_errors()
    assert_fails(made.test_messages_are_in_the_prompt_in_order, "rejects 6 of 6 ordinary conversations")
