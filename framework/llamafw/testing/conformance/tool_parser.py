"""What every tool parser keeps: it reads what its own grammar writes, however it arrives, and loses no text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from llamafw.errors import RequestError
from llamafw.interfaces import GrammarContext, ToolParser, ToolParserPlugin
from llamafw.testing import vocabularies
from llamafw.testing.conformance.base import Conformance, tokenizer
from llamafw.testing.conformance.grammar import written
from llamafw.types import ToolCall

Read = tuple[str, list[tuple[str, Any]]]
"""The plain text, and names and arguments of calls."""

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "The weather of a city.",
        "parameters": {"type": "object", "additionalProperties": False, "required": ["city", "today"],
                       "properties": {"city": {"enum": ["Oslo", "São Paulo"]}, "today": {"type": "boolean"}}}}},
    {"type": "function", "function": {
        "name": "roll", "description": "Roll a die.",
        "parameters": {"type": "object", "additionalProperties": False, "required": ["sides"],
                       "properties": {"sides": {"enum": [6, 20]}}}}},
]  # fmt: skip
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "The weather in Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}]},
    {"role": "tool", "tool_call_id": "a", "content": "rainy, 7 degrees"},
    {"role": "user", "content": "Thank you."},
]  # fmt: skip
PROSE = ("Hello, world!\nIt is 5 < 6 and 7 > 3.", "", "é 世界 😀", "A list:\n- one\n- two\n",
         "Dear [name], f(x) = {y}.", '{"a": 1}', "[1, 2, 3]", "<tool", "{", "[", "<", "```json\n{}\n```")  # fmt: skip


class ToolParserConformance(Conformance):
    """Subclass it, and give the ``name``."""

    kind = "tool_parser"

    def test_it_reads_what_its_grammar_writes(self) -> None:
        """Random answers of the grammar that ``tool_choice: required`` holds a model to."""
        tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
        for parallel, answer in self.answers():
            text, calls = read(self.plugin().create(), [answer])
            assert calls, f"no call is found in {answer!r}"
            assert parallel or len(calls) == 1, f"{len(calls)} calls are found in {answer!r}"
            assert not text.strip(), f"of {answer!r} the text {text!r} is left"
            for name, arguments in calls:
                assert name in tools, f"{answer!r} calls {name!r}"
                assert isinstance(arguments, dict), f"the arguments of {answer!r} are {arguments!r}"
                properties = tools[name]["properties"]
                for key, value in arguments.items():
                    allowed = properties.get(key, {}).get("enum", (False, True))
                    assert key in properties, f"{answer!r} has the argument {key}={value!r}"
                    assert value in allowed, f"{answer!r} has the argument {key}={value!r}"

    def test_it_reads_the_same_however_it_arrives(self) -> None:
        rng = np.random.default_rng(0)
        answers = [answer for _, answer in self.answers()]
        mixed = [f"Let me see. {answer}" for answer in answers[:4]] + [answer + " Done." for answer in answers[:4]]
        for answer in (*answers, *mixed, *PROSE):
            whole = read(self.plugin().create(), [answer])
            cuts = sorted(rng.choice(len(answer), min(4, len(answer)), replace=False).tolist()) if answer else []
            random = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
            for pieces in (list(answer), random):
                found = read(self.plugin().create(), pieces)
                assert found == whole, f"{answer!r} in {len(pieces)} pieces is {found}, and whole it is {whole}"

    def test_what_is_no_call_is_text(self) -> None:
        for text in PROSE:
            assert read(self.plugin().create(), [text]) == (text, []), f"{text!r} is not left alone"

    def test_half_a_call_is_text(self) -> None:
        """An answer may end anywhere; what was held back is not lost."""
        for _, answer in self.answers():
            for end in (len(answer) // 3, len(answer) - 1):
                text, calls = read(self.plugin().create(), [answer[:end]])
                assert calls or text == answer[:end], f"of {answer[:end]!r} the text {text!r} is left, and no call"

    def test_answers_are_apart(self) -> None:
        (_, answer), plugin = next(self.answers()), self.plugin()
        first, second = plugin.create(), plugin.create()
        first.feed(answer[: len(answer) // 2])
        assert read(second, ["Hello"]) == ("Hello", []), "half a call in one answer shows in another"

    def test_calls_have_ids_of_their_own(self) -> None:
        ids = [call.id for _, answer in self.answers() for call in parts(self.plugin().create(), [answer])[1]]
        assert all(ids), "a call has no id"
        assert len(set(ids)) == len(ids), "two calls have the same id"

    def test_templates_are_told_apart(self) -> None:
        plugin = self.plugin()
        for template in ("", vocabularies.CHATML, "{{ messages }}"):
            assert plugin.matches(template) is False, f"it claims the template {template!r:.60}, which knows no tools"

    def test_messages_for_a_template_without_tools(self) -> None:
        plugin, given = self.plugin(), deepcopy(MESSAGES)
        try:
            found = plugin.inline(given, TOOLS)
        except RequestError:  # it cannot be done with this kind of model
            return
        assert given == MESSAGES, "inline has changed the messages that it was given"
        text = " ".join(str(message["content"]) for message in found)
        for message in found:
            assert isinstance(message.get("content"), str), f"a message has no text: {message!r:.200}"
            assert "tool_calls" not in message, "a call is not written as text"
        for part in ("get_weather", "roll", "Oslo", "rainy, 7 degrees", "Be brief.", "Thank you."):
            assert part in text, f"{part!r} is lost"
        assert [dict(one) for one in plugin.inline(given[:2], [])] == given[:2], "without tools messages are changed"

    # --- how

    def plugin(self) -> ToolParserPlugin:
        """Return what is registered."""
        plugin: ToolParserPlugin = self.thing()
        return plugin

    def answers(self, n: int = 8) -> Iterator[tuple[bool, str]]:
        """Yield answers that its grammars allow, and whether these may have several calls."""
        compiler = self.registry("grammar")["lark"](GrammarContext(tokenizer(), tokenizer().n_vocab))
        for parallel in (False, True):
            source = self.plugin().grammar(TOOLS, parallel=parallel)
            for seed in range(n):
                answer = written(compiler.compile(source), np.random.default_rng(seed))
                if answer is not None:
                    yield parallel, answer


def parts(parser: ToolParser, pieces: Sequence[str]) -> tuple[str, list[ToolCall]]:
    """Return the text and the calls of an answer that arrives in pieces."""
    text = ""
    calls: list[ToolCall] = []
    for certain, found in [*map(parser.feed, pieces), parser.finish()]:
        text += certain
        calls += found
    return text, calls


def read(parser: ToolParser, pieces: Sequence[str]) -> Read:
    """Return text, names and arguments."""
    text, calls = parts(parser, pieces)
    return text, [(call.name, json.loads(call.arguments)) for call in calls]
