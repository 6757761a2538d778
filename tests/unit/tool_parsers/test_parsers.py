"""Calls in text, however it is cut into pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import ToolParserPlugin
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.llama3 import Llama3
from llamafw_plugins.tool_parsers.mistral import Mistral

ONE = {"name": "f", "arguments": {"x": [1, "</b>"], "é": None}}
TWO = {"name": "g", "arguments": {}}

CASES: list[tuple[ToolParserPlugin, str, str, list[dict[str, Any]]]] = [
    (Hermes(), f"<tool_call>{json.dumps(ONE)}</tool_call>", "", [ONE]),
    (
        Hermes(),
        f"a\n<tool_call>\n{json.dumps(ONE)}\n</tool_call>\n<tool_call>{json.dumps(TWO)}</tool_call>\n",
        "a\n",
        [ONE, TWO],
    ),
    (Hermes(), f"<tool_call>{json.dumps(ONE)}", "", [ONE]),  # the answer ended before the closing mark
    (Hermes(), f"<tool_call>{json.dumps(ONE)}</tool_call> done", "done", [ONE]),
    (Hermes(), "<tool_call>{oops}</tool_call> x", "<tool_call>{oops}</tool_call> x", []),
    (Hermes(), "<tool_", "<tool_", []),
    (Hermes(), '<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>', []),
    (Llama3(), json.dumps({"name": "f", "parameters": ONE["arguments"]}), "", [ONE]),
    (Llama3(), f"<|python_tag|>{json.dumps(ONE)}; {json.dumps(TWO)}", "", [ONE, TWO]),
    (Llama3(), '{"answer": 42}', '{"answer": 42}', []),
    (Llama3(), f"Here: {json.dumps(ONE)}", f"Here: {json.dumps(ONE)}", []),
    (Llama3(), "  ", "  ", []),
    (Mistral(), f"[TOOL_CALLS] {json.dumps([ONE, TWO])}", "", [ONE, TWO]),
    (Mistral(), f" {json.dumps([ONE])}", "", [ONE]),  # the mark has no text of its own
    (Mistral(), "[TOOL", "[TOOL", []),
    (Mistral(), "[1, 2]", "[1, 2]", []),
]


@pytest.mark.parametrize(("plugin", "text", "plain", "calls"), CASES)
@given(data=st.data())
def test_any_pieces_give_the_same(
    plugin: ToolParserPlugin, text: str, plain: str, calls: list[dict[str, Any]], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    parser, said, found = plugin.create(), "", []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        certain, more = parser.feed(text[start:end])
        said, found = said + certain, [*found, *more]
    certain, more = parser.finish()
    assert said + certain == plain
    assert [{"name": call.name, "arguments": json.loads(call.arguments)} for call in [*found, *more]] == calls


def test_text_is_not_held_back_without_need() -> None:
    parser = Hermes().create()
    assert parser.feed("Hello <b>")[0] == "Hello <b>"
    assert parser.feed(" <tool")[0] == " "
    assert parser.feed("box")[0] == "<toolbox"


def test_ids() -> None:
    def ids(plugin: ToolParserPlugin, text: str) -> list[str]:
        parser = plugin.create()
        return [call.id for call in [*parser.feed(text)[1], *parser.finish()[1]]]

    (openai,) = ids(Hermes(), f"<tool_call>{json.dumps(ONE)}</tool_call>")
    assert openai.startswith("call_")
    mistral = ids(Mistral(), f"[TOOL_CALLS] {json.dumps([ONE, TWO])}")
    assert all(len(one) == 9 and one.isalnum() for one in mistral)  # its template refuses any other


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
