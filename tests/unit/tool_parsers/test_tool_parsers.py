"""Tool parsers find the same calls however a response is divided into deltas."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import ToolParserPlugin
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.llama3 import Llama3
from llamafw_plugins.tool_parsers.mistral import Mistral

FIRST = {"name": "f", "arguments": {"x": [1, "</b>"], "é": None}}
SECOND = {"name": "g", "arguments": {}}

CASES: list[tuple[ToolParserPlugin, str, str, list[dict[str, Any]]]] = [
    (Hermes(), f"<tool_call>{json.dumps(FIRST)}</tool_call>", "", [FIRST]),
    (
        Hermes(),
        f"a\n<tool_call>\n{json.dumps(FIRST)}\n</tool_call>\n<tool_call>{json.dumps(SECOND)}</tool_call>\n",
        "a\n",
        [FIRST, SECOND],
    ),
    (Hermes(), f"<tool_call>{json.dumps(FIRST)}", "", [FIRST]),  # the response ended before the closing delimiter
    (Hermes(), f"<tool_call>{json.dumps(FIRST)}</tool_call> done", "done", [FIRST]),
    (Hermes(), "<tool_call>{oops}</tool_call> x", "<tool_call>{oops}</tool_call> x", []),
    (Hermes(), "<tool_", "<tool_", []),
    (Hermes(), '<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>', []),
    (Llama3(), json.dumps({"name": "f", "parameters": FIRST["arguments"]}), "", [FIRST]),
    (Llama3(), f"<|python_tag|>{json.dumps(FIRST)}; {json.dumps(SECOND)}", "", [FIRST, SECOND]),
    (Llama3(), '{"answer": 42}', '{"answer": 42}', []),
    (Llama3(), f"Here: {json.dumps(FIRST)}", f"Here: {json.dumps(FIRST)}", []),
    (Llama3(), "  ", "  ", []),
    (Mistral(), f"[TOOL_CALLS] {json.dumps([FIRST, SECOND])}", "", [FIRST, SECOND]),
    (Mistral(), f" {json.dumps([FIRST])}", "", [FIRST]),  # without the delimiter, which may be a token without text
    (Mistral(), "[TOOL", "[TOOL", []),
    (Mistral(), "[1, 2]", "[1, 2]", []),
]


@pytest.mark.parametrize(("plugin", "text", "plain", "calls"), CASES)
@given(data=st.data())
def test_any_division_into_deltas_gives_the_same_calls(
    plugin: ToolParserPlugin, text: str, plain: str, calls: list[dict[str, Any]], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    deltas = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    parser = plugin.create()
    results = [*map(parser.feed, deltas), parser.finish()]

    assert "".join(part for part, _ in results) == plain
    found = [call for _, part in results for call in part]
    assert [{"name": call.name, "arguments": json.loads(call.arguments)} for call in found] == calls


def test_text_is_held_back_only_if_it_may_be_a_delimiter() -> None:
    parser = Hermes().create()
    assert parser.feed("Hello <b>")[0] == "Hello <b>"
    assert parser.feed(" <tool")[0] == " "
    assert parser.feed("box")[0] == "<toolbox"


def find_ids(plugin: ToolParserPlugin, text: str) -> list[str]:
    parser = plugin.create()
    return [call.id for call in [*parser.feed(text)[1], *parser.finish()[1]]]


def test_ids_look_like_openai_ids() -> None:
    (call_id,) = find_ids(Hermes(), f"<tool_call>{json.dumps(FIRST)}</tool_call>")
    assert re.fullmatch("call_[0-9a-f]{24}", call_id)


def test_ids_of_mistral_have_nine_characters() -> None:
    """Mistral's chat template refuses any other length."""
    ids = find_ids(Mistral(), f"[TOOL_CALLS] {json.dumps([FIRST, SECOND])}")
    assert len(set(ids)) == 2
    assert all(re.fullmatch("[A-Za-z0-9]{9}", call_id) for call_id in ids)


@pytest.mark.parametrize(
    ("plugin", "template"),
    [
        (Hermes(), "{{ '<tool_call>' }}"),
        (Llama3(), """<|start_header_id|>Respond in the format {"name": name, "parameters": dictionary}"""),
        (Mistral(), "[TOOL_CALLS]"),
    ],
)
def test_templates_are_recognised(plugin: ToolParserPlugin, template: str) -> None:
    assert plugin.matches(template)
    assert not plugin.matches("<|im_start|>{{ message.content }}<|im_end|>")
