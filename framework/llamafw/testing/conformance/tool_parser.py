"""The rules for tool parsers: they read what their own grammar allows, in pieces of any size, and lose no text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from llamafw.errors import RequestError
from llamafw.interfaces import GrammarContext, ToolContext, ToolParser, ToolParserPlugin
from llamafw.testing import vocabularies
from llamafw.testing.conformance.base import ProtocolConformance, tokenizer
from llamafw.testing.conformance.grammar import random_response
from llamafw.types import AnswerDelta, ToolCall

ParsedResponse = tuple[str, list[tuple[str, Any]]]
"""The plain text, and the name and arguments of each call."""

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "required": ["city", "today"],
                "properties": {"city": {"enum": ["Oslo", "São Paulo"]}, "today": {"type": "boolean"}},
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "roll",
            "description": "Roll a die.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "required": ["sides"],
                "properties": {"sides": {"enum": [6, 20]}},
            },
        },
    },
]
WEATHER_CALL = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "The weather in Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [WEATHER_CALL]},
    {"role": "tool", "tool_call_id": "a", "content": "rainy, 7 degrees"},
    {"role": "user", "content": "Thank you."},
]
TEXTS_WITHOUT_CALLS = (
    "Hello, world!\nIt is 5 < 6 and 7 > 3.",
    "",
    "é 世界 😀",
    "A list:\n- one\n- two\n",
    "Dear [name], f(x) = {y}.",
    '{"a": 1}',
    "[1, 2, 3]",
    "<tool",
    "{",
    "[",
    "<",
    "```json\n{}\n```",
)


class ToolParserConformance(ProtocolConformance):
    """Subclass it and give the ``name``."""

    kind = "tool_parser"

    def test_reads_calls_that_its_grammar_allows(self) -> None:
        """Every random response that its grammar allows is read as calls of the tools, without other text."""
        tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
        for parallel, response in self.responses():
            text, calls = parse(self.parser(), [response])
            assert calls, f"no call is found in {response!r}"
            assert parallel or len(calls) == 1, f"{len(calls)} calls are found in {response!r}, expected 1"
            assert not text.strip(), f"{response!r} leaves the text {text!r}"
            for name, arguments in calls:
                assert name in tools, f"{response!r} calls the unknown tool {name!r}"
                assert isinstance(arguments, dict), f"the arguments of {response!r} are {arguments!r}, expected a dict"
                properties = tools[name]["properties"]
                for key, value in arguments.items():
                    allowed = properties.get(key, {}).get("enum", (False, True))
                    valid = key in properties and value in allowed
                    assert valid, f"{response!r} has the argument {key}={value!r}, which the schema forbids"

    def test_result_does_not_depend_on_the_pieces(self) -> None:
        """A response gives the same text and calls whole, character by character, and in random pieces."""
        rng = np.random.default_rng(0)
        responses = [response for _, response in self.responses()]
        mixed = [f"Let me see. {response}" for response in responses[:4]]
        mixed += [f"{response} Done." for response in responses[:4]]
        for response in (*responses, *mixed, *TEXTS_WITHOUT_CALLS):
            whole = parse(self.parser(), [response])
            n_cuts = min(4, len(response))
            cuts = sorted(rng.choice(len(response), n_cuts, replace=False).tolist()) if response else []
            random = [response[a:b] for a, b in zip([0, *cuts], [*cuts, len(response)], strict=True)]
            for pieces in (list(response), random):
                result = parse(self.parser(), pieces)
                assert result == whole, f"{response!r} in {len(pieces)} pieces gives {result}, as a whole {whole}"

    def test_enforced_calls_are_the_same(self) -> None:
        """If the grammar holds, so that pieces may be returned early, the same calls are found."""
        for parallel, response in self.responses():
            context = ToolContext(TOOLS, parallel=parallel, enforced=True, required=True)
            parser = self.plugin().create(context)
            deltas = [*map(parser.feed, response), parser.finish()]
            pieces = join(deltas)
            expected = parse(self.parser(), [response])
            assert (pieces[0], [(call.name, json.loads(call.arguments)) for call in pieces[1]]) == expected, (
                f"{response!r} gives {pieces} under its grammar, and {expected} without it"
            )

    def test_triggers_begin_the_calls(self) -> None:
        """Every response that the grammar allows has one of the triggers, and no call begins before it."""
        for parallel, response in self.responses():
            triggers = self.plugin().triggers(ToolContext(TOOLS, parallel=parallel))
            ends = [at + len(trigger) for trigger in triggers if (at := response.find(trigger)) >= 0]
            assert ends, f"{response!r} has none of the triggers {list(triggers)}"
            deltas = [self.parser().feed(response[: min(ends)])]
            assert not join(deltas)[1], f"a call is found in {response!r} before its trigger is complete"

    def test_text_without_calls_is_unchanged(self) -> None:
        """Text that is not a call comes out unchanged."""
        for text in TEXTS_WITHOUT_CALLS:
            result = parse(self.parser(), [text])
            assert result == (text, []), f"the text {text!r} becomes {result}"

    def test_incomplete_call_is_text(self) -> None:
        """If a response ends within a call, the text that was held back comes out at the end."""
        for _, response in self.responses():
            for end in (len(response) // 3, len(response) - 1):
                text, calls = parse(self.parser(), [response[:end]])
                assert calls or text == response[:end], f"{response[:end]!r} gives no call and only the text {text!r}"

    def test_cut_call_is_dropped(self) -> None:
        """If a response that must be a call ends at a limit, only whole calls are left, and no text."""
        for parallel, response in self.responses():
            whole = parse(self.parser(), [response])[1]
            for end in range(0, len(response), max(1, len(response) // 16)):
                parser = self.plugin().create(ToolContext(TOOLS, parallel=parallel, required=True))
                text, calls = join([parser.feed(response[:end]), parser.finish(cut=True)])
                found = [(call.name, json.loads(call.arguments)) for call in calls]
                assert found == whole[: len(found)], f"{response[:end]!r} gives {found}, as a whole {whole}"
                assert not text.strip(), f"{response[:end]!r} is cut and leaves the text {text!r}"

    def test_responses_are_independent(self) -> None:
        """A parser does not see what another one was fed."""
        _, response = self.responses()[0]
        plugin = self.plugin()
        first, second = plugin.create(ToolContext(TOOLS)), plugin.create(ToolContext(TOOLS))
        first.feed(response[: len(response) // 2])
        assert parse(second, ["Hello"]) == ("Hello", []), "half a call in one response appears in another"

    def test_call_ids_are_unique(self) -> None:
        """Every call has an id, and no two calls of a response have the same."""
        responses = [feed(self.parser(), [response])[1] for _, response in self.responses()]
        assert any(responses), "no call is found in any response"
        for calls in responses:
            ids = [call.id for call in calls]
            assert all(ids), "a call has no id"
            assert len(set(ids)) == len(ids), f"two calls of one response have the same id: {ids}"

    def test_matches_no_template_without_tools(self) -> None:
        """`matches` returns False for chat templates that do not mention tools."""
        plugin = self.plugin()
        for template in ("", vocabularies.CHATML, "{{ messages }}"):
            message = f"matches returns True for {template!r:.60}, which has no tools"
            assert plugin.matches(template, "") is False, message

    def test_inline_writes_tools_into_the_messages(self) -> None:
        """`inline` turns tools, calls and results into text and loses none; or it raises RequestError."""
        plugin, messages = self.plugin(), deepcopy(MESSAGES)
        try:
            inlined = plugin.inline(messages, TOOLS)
        except RequestError:  # this format needs a template with tools
            return
        assert messages == MESSAGES, "inline has changed the messages that it was given"

        text = " ".join(str(message["content"]) for message in inlined)
        for message in inlined:
            assert isinstance(message.get("content"), str), f"a message has no text: {message!r:.200}"
            assert "tool_calls" not in message, "a call is not written as text"
        for part in ("get_weather", "roll", "Oslo", "rainy, 7 degrees", "Be brief.", "Thank you."):
            assert part in text, f"{part!r} is lost"
        unchanged = [dict(message) for message in plugin.inline(messages[:2], [])]
        assert unchanged == messages[:2], "inline changes messages although there are no tools"

    # --- helpers

    def implementations(self, tiny_model: Path) -> Iterator[tuple[type, Any]]:
        """Yield the plugin and a parser that it creates."""
        yield ToolParserPlugin, self.registered()
        yield ToolParser, self.parser()

    def plugin(self) -> ToolParserPlugin:
        """Return what is registered."""
        plugin: ToolParserPlugin = self.registered()
        return plugin

    def parser(self) -> ToolParser:
        """Return a parser for a response that is not constrained."""
        return self.plugin().create(ToolContext(TOOLS))

    def responses(self, n: int = 8) -> list[tuple[bool, str]]:
        """Return random responses that the grammars allow, and whether they may have several calls."""
        compiler = self.registry("grammar")["lark"](GrammarContext(tokenizer(), tokenizer().n_vocab))
        responses = []
        for parallel in (False, True):
            source = self.plugin().grammar(ToolContext(TOOLS, parallel=parallel, enforced=True, required=True))
            for seed in range(n):
                response = random_response(compiler.compile(source), np.random.default_rng(seed))
                if response is not None:
                    responses.append((parallel, response))
        assert responses, "no response of its grammar has an end"
        return responses


def feed(parser: ToolParser, pieces: Sequence[str]) -> tuple[str, list[ToolCall]]:
    """Return the text and the calls of a response that arrives in ``pieces``."""
    return join([*map(parser.feed, pieces), parser.finish()])


def join(deltas: Sequence[AnswerDelta]) -> tuple[str, list[ToolCall]]:
    """Return the text and the calls that consist of the pieces in ``deltas``."""
    calls: dict[int, ToolCall] = {}
    for piece in (piece for delta in deltas for piece in delta.calls):
        if piece.index not in calls:
            assert piece.index == len(calls), f"call {piece.index} begins after {len(calls)} calls"
            assert piece.name, f"the first piece of call {piece.index} has no name"
            calls[piece.index] = ToolCall(piece.id, piece.name, piece.arguments)
            continue
        call = calls[piece.index]
        assert piece.index == len(calls) - 1, f"a piece of call {piece.index} arrives after the next call has begun"
        assert piece.name is None, f"a later piece of call {piece.index} has a name"
        assert piece.id == call.id, f"the id of call {piece.index} changes from {call.id!r} to {piece.id!r}"
        calls[piece.index] = ToolCall(call.id, call.name, call.arguments + piece.arguments)
    return "".join(delta.text for delta in deltas), list(calls.values())


def parse(parser: ToolParser, pieces: Sequence[str]) -> ParsedResponse:
    """Return the text, and the name and arguments of each call."""
    text, calls = feed(parser, pieces)
    return text, [(call.name, json.loads(call.arguments)) for call in calls]
