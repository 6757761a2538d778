"""The suite for tool parsers names the rule that a parser breaks."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from llamafw import AnswerDelta, ToolContext
from llamafw.testing.conformance import ToolParserConformance
from llamafw_plugins.tool_parsers.hermes import Hermes, HermesParser
from support.conformance import assert_fails, suite

UNKNOWN_CALL = {
    "type": "object",
    "properties": {"name": {"const": "x"}, "arguments": {"const": {}}},
    "required": ["name", "arguments"],
    "additionalProperties": False,
}
GRAMMAR_OF_UNKNOWN_CALLS = f'start: "<tool_call>\\n" %json {json.dumps(UNKNOWN_CALL)} "\\n</tool_call>"'


class WholeResponsesOnly:
    """A parser that finds a call only if it arrives in one piece."""

    def feed(self, text: str) -> Any:
        if text.startswith("<tool_call>") and text.endswith("</tool_call>"):
            return Hermes().create(ToolContext()).feed(text)
        return AnswerDelta(text=text)

    def finish(self, *, cut: bool = False) -> Any:
        return AnswerDelta()


class SilentIfEnforced(HermesParser):
    """A parser that finds nothing if a grammar holds."""

    def feed(self, text: str) -> Any:
        return AnswerDelta() if self.context.enforced else super().feed(text)


class NeverCut(HermesParser):
    """A parser that does not know limits."""

    def finish(self, *, cut: bool = False) -> Any:
        return super().finish()


def parser_with_feed(feed: Any) -> Any:
    return parser(create=lambda self, context: SimpleNamespace(feed=feed, finish=lambda cut=False: AnswerDelta()))


def parser(**members: Any) -> Any:
    return suite(ToolParserConformance, type("Broken", (Hermes,), members)())


@pytest.mark.parametrize(
    ("made", "test", "message"),
    [
        (
            parser(create=lambda self, context: WholeResponsesOnly()),
            "result_does_not_depend_on_the_pieces",
            "in .* pieces gives",
        ),
        (parser_with_feed(lambda text: AnswerDelta()), "reads_calls_that_its_grammar_allows", "no call is found"),
        (parser_with_feed(lambda text: AnswerDelta(text=text.strip())), "text_without_calls_is_unchanged", "becomes"),
        (
            parser(matches=lambda self, template, call: True),
            "matches_no_template_without_tools",
            "matches returns True for '', which has no tools",
        ),
        (
            parser(inline=lambda self, messages, tools: messages),
            "inline_writes_tools_into_the_messages",
            "has no text|is not written",
        ),
        (
            parser(grammar=lambda self, context: GRAMMAR_OF_UNKNOWN_CALLS),
            "reads_calls_that_its_grammar_allows",
            "calls the unknown tool 'x'",
        ),
        (
            parser(create=lambda self, context: SilentIfEnforced(context)),
            "enforced_calls_are_the_same",
            "under its grammar",
        ),
        (parser(triggers=lambda self, context: ["<call>"]), "triggers_begin_the_calls", "none of the triggers"),
        (
            parser(triggers=lambda self, context: ["}\n</tool_call>"]),
            "triggers_begin_the_calls",
            "before its trigger is complete",
        ),
        (parser(create=lambda self, context: NeverCut(context)), "cut_call_is_dropped", "is cut and leaves the text"),
    ],
)
def test_broken_rule_is_reported(made: Any, test: str, message: str) -> None:
    assert_fails(getattr(made, f"test_{test}"), message)
