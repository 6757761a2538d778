"""Tool parsers find the same calls however a response is divided into pieces, and lose no text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from os.path import commonprefix
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import AnswerDelta, CallDelta, GrammarContext, RequestError, ToolContext
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from support.toy_model import HELLO
from unit.tool_parsers.transcripts import NESTED, NO_CALLS, OSLO, PARSERS, TIME, TOOLS, TRANSCRIPTS, Transcript

Read = tuple[str, str, list[tuple[str, Any]]]

pytestmark = pytest.mark.inventory("E-108", "T-02")
each_transcript = pytest.mark.parametrize(
    "transcript", TRANSCRIPTS, ids=lambda case: f"{case.format}-{len(case.response)}"
)


def deltas_of(format: str, pieces: Sequence[str], *, cut: bool = False, **context: Any) -> list[AnswerDelta]:
    parser = PARSERS[format].create(ToolContext(TOOLS, **context))
    return [*map(parser.feed, pieces), parser.finish(cut=cut)]


def join(deltas: Sequence[AnswerDelta]) -> dict[int, list[Any]]:
    """Return id, name and arguments of each call, after checks of the order of the pieces."""
    calls: dict[int, list[Any]] = {}
    for piece in (piece for delta in deltas for piece in delta.calls):
        if piece.index not in calls:
            assert piece.index == len(calls)
            assert piece.name
            calls[piece.index] = [piece.id, piece.name, ""]
        else:
            assert piece.name is None
            assert piece.index == len(calls) - 1
        assert piece.id == calls[piece.index][0]
        calls[piece.index][2] += piece.arguments
    return calls


def read(format: str, pieces: Sequence[str], **context: Any) -> Read:
    deltas = deltas_of(format, pieces, **context)
    calls = [(name, json.loads(arguments)) for _, name, arguments in join(deltas).values()]
    return "".join(delta.text for delta in deltas), "".join(delta.reasoning for delta in deltas), calls


def expected(transcript: Transcript) -> Read:
    return transcript.text, transcript.reasoning, list(transcript.calls)


def test_every_format_has_a_transcript() -> None:
    assert {transcript.format for transcript in TRANSCRIPTS if transcript.calls} == set(PARSERS)


@each_transcript
@pytest.mark.parametrize("enforced", [False, True])
def test_response_is_read_whole_and_by_characters(transcript: Transcript, enforced: bool) -> None:
    for pieces in ([transcript.response], list(transcript.response)):
        assert read(transcript.format, pieces, enforced=enforced) == expected(transcript)


@each_transcript
@pytest.mark.parametrize("enforced", [False, True])
def test_response_may_be_cut_in_two_at_every_character(transcript: Transcript, enforced: bool) -> None:
    for i in range(len(transcript.response)):
        pieces = [transcript.response[:i], transcript.response[i:]]
        assert read(transcript.format, pieces, enforced=enforced) == expected(transcript), pieces


@each_transcript
def test_response_that_ends_at_a_limit_keeps_whole_calls(transcript: Transcript) -> None:
    """A cut response has the first calls of the whole one, and a beginning of its text."""
    n_calls = set()
    for i in range(len(transcript.response)):
        deltas = deltas_of(transcript.format, [transcript.response[:i]], cut=True)
        calls = [(name, json.loads(arguments)) for _, name, arguments in join(deltas).values()]
        assert calls == list(transcript.calls[: len(calls)])
        n_calls.add(len(calls))
        text = "".join(delta.text for delta in deltas)
        rest = text[len(commonprefix([text, transcript.text])) :]
        assert transcript.response[:i].endswith(rest), (transcript.response[:i], text)
    assert n_calls >= set(range(len(transcript.calls)))


@each_transcript
def test_response_that_ends_early_loses_no_text(transcript: Transcript) -> None:
    """Without a limit, the text of an unfinished call is text."""
    for i in range(len(transcript.response)):
        deltas = deltas_of(transcript.format, [transcript.response[:i]])
        if not any(delta.calls for delta in deltas) and not PARSERS[transcript.format].reads_all:
            assert "".join(delta.text for delta in deltas) == transcript.response[:i]


@pytest.mark.parametrize(("format", "response"), NO_CALLS)
def test_what_is_not_a_call_is_text(format: str, response: str) -> None:
    for pieces in ([response], list(response)):
        assert read(format, pieces) == (response, "", [])


@pytest.mark.parametrize("format", sorted(PARSERS))
def test_calls_written_for_templates_without_tools_can_be_read(format: str) -> None:
    """The instructions ask for the format that the answer is read in."""
    for name, arguments in (OSLO, NESTED, TIME):
        call = {"id": "a", "type": "function", "function": {"name": name, "arguments": arguments}}
        (message,) = PARSERS[format].inline([{"role": "assistant", "content": "", "tool_calls": [call]}], ())
        assert read(format, [message["content"]]) == ("", "", [(name, arguments)])


@given(st.sampled_from(sorted(PARSERS)), st.data())
def test_no_text_is_lost_or_depends_on_the_pieces(format: str, data: st.DataObject) -> None:
    """Any mixture of a format's strings and other text gives the same result whole and in pieces."""
    own = [case.response for case in TRANSCRIPTS if case.format == format]
    words = sorted(
        {word for text in own for word in re.split(r"(<[^>]*>|\[[A-Z_]+\]|[{}\[\]\":,()=]|\s)", text) if word}
    )
    pieces = data.draw(st.lists(st.one_of(st.sampled_from(words), st.text(max_size=3)), max_size=12))
    response = "".join(pieces)
    whole = read(format, [response])
    assert read(format, pieces) == whole
    assert read(format, list(response)) == whole
    if not whole[2] and not PARSERS[format].reads_all:  # formats that remove the headers of messages
        assert whole[0] == response


@given(st.sampled_from(sorted(PARSERS)), st.text(max_size=60))
def test_arbitrary_text_is_unchanged(format: str, text: str) -> None:
    if not text.startswith("all\n"):
        assert read(format, [text]) == (text, "", [])


# --- the pieces of calls


def first_with(deltas: Sequence[AnswerDelta], n: int) -> int:
    """Return how many pieces of text arrived before the call had ``n`` characters of arguments."""
    total = 0
    for i, delta in enumerate(deltas):
        total += sum(len(piece.arguments) for piece in delta.calls)
        if total >= n:
            return i
    raise AssertionError("the call has fewer characters")


def test_enforced_arguments_arrive_as_they_are_written() -> None:
    response = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>'
    deltas = deltas_of("hermes", list(response), enforced=True)
    assert "".join(piece.arguments for delta in deltas for piece in delta.calls) == '{"city": "Oslo", "days": 3}'
    name = next(i for i, delta in enumerate(deltas) if delta.calls)
    assert name <= response.index('{"city"') + 1
    assert first_with(deltas, 5) <= response.index('{"city"') + 5

    free = deltas_of("hermes", list(response))
    assert [len(delta.calls) for delta in free if delta.calls] == [1]


@pytest.mark.parametrize("format", sorted(PARSERS))
def test_every_format_passes_arguments_on_before_their_end(format: str) -> None:
    response = next(case.response for case in TRANSCRIPTS if case.format == format and case.calls)
    deltas = deltas_of(format, list(response), enforced=True)
    assert sum(any(piece.index == 0 for piece in delta.calls) for delta in deltas) > 2


def test_enforced_text_in_tags_arrives_as_it_is_written() -> None:
    response = (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nSão <Paulo>\n</parameter>\n</function>\n</tool_call>"
    )
    deltas = deltas_of("qwen3-coder", list(response), enforced=True)
    assert first_with(deltas, len('{"city": "S')) <= response.index("S") + 2
    assert json.loads("".join(piece.arguments for delta in deltas for piece in delta.calls)) == {"city": "São <Paulo>"}


def test_bare_json_is_passed_on_only_if_a_grammar_holds_for_it() -> None:
    call = '{"name": "get_weather", "parameters": {"city": "Oslo"}}'
    assert sum(bool(delta.calls) for delta in deltas_of("llama3", list(call), enforced=True)) > 5
    other = '{"type": "function", "name": "get_weather", "parameters": {"city": "Oslo"}}'
    assert sum(bool(delta.calls) for delta in deltas_of("llama3", list(other), enforced=True)) == 1


def test_bare_json_is_text_if_the_client_asked_for_json() -> None:
    call = '{"name": "get_weather", "parameters": {"city": "Oslo"}}'
    assert read("llama3", [call], may_be_json=True) == (call, "", [])
    assert read("llama3", [f"<|python_tag|>{call}"], may_be_json=True)[2] == [("get_weather", {"city": "Oslo"})]
    mistral = '[{"name": "get_weather", "arguments": {"city": "Oslo"}}]'
    assert read("mistral", [mistral], may_be_json=True) == (mistral, "", [])


def test_cut_call_has_the_pieces_so_far() -> None:
    response = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Os'
    deltas = deltas_of("hermes", list(response), enforced=True, cut=True)
    ((_, name, arguments),) = join(deltas).values()
    assert (name, arguments) == ("get_weather", '{"city": "Os')
    assert not "".join(delta.text for delta in deltas)


def test_text_is_held_back_only_if_it_may_begin_a_call() -> None:
    parser = PARSERS["hermes"].create(ToolContext(TOOLS))
    assert parser.feed("Hello <b>").text == "Hello <b>"
    assert parser.feed(" <tool").text == " "
    assert parser.feed("box").text == "<toolbox"


# --- ids


def ids_of(format: str, response: str) -> list[str]:
    return [call[0] for call in join(deltas_of(format, [response])).values()]


def response_of(format: str, n_calls: int) -> str:
    return next(case.response for case in TRANSCRIPTS if case.format == format and len(case.calls) == n_calls)


def test_ids_look_like_openai_ids() -> None:
    (call_id,) = ids_of("hermes", response_of("hermes", 1))
    assert re.fullmatch("call_[0-9a-f]{24}", call_id)


@pytest.mark.parametrize("format", ["mistral", "mistral-args"])
def test_ids_of_mistral_have_nine_characters(format: str) -> None:
    """Mistral's chat templates refuse any other length."""
    ids = ids_of(format, response_of(format, 2))
    assert len(set(ids)) == 2
    assert all(re.fullmatch("[A-Za-z0-9]{9}", call_id) for call_id in ids)


def test_ids_that_models_write_are_kept() -> None:
    assert ids_of("kimi-k2", response_of("kimi-k2", 2)) == ["functions.get_weather:0", "functions.clock:1"]
    assert ids_of("mistral-args", "[TOOL_CALLS]clock[CALL_ID]abcdefgh1[ARGS]{}") == ["abcdefgh1"]


def test_repeated_ids_are_replaced() -> None:
    response = "[TOOL_CALLS]clock[CALL_ID]abcdefgh1[ARGS]{}" * 2
    first, second = ids_of("mistral-args", response)
    assert first == "abcdefgh1"
    assert second != first


def test_delta_has_one_piece_for_each_call() -> None:
    (delta, _) = deltas_of("hermes", [response_of("hermes", 1)], enforced=True)
    assert [(piece.index, piece.name) for piece in delta.calls] == [(0, OSLO[0])]
    assert isinstance(delta.calls[0], CallDelta)


# --- grammars


LIMITED: dict[str, Any] = {
    "type": "object",
    "properties": {"code": {"type": "string", "pattern": "^[a-c/]+$", "maxLength": 4}, "n": {"type": "integer"}},
    "required": ["code"],
}
WRITTEN = {
    "qwen3-coder": ("<tool_call>\n<function=f>\n<parameter=code>\n{}\n</parameter>\n</function>\n</tool_call>"),
    "minimax-m2": '<minimax:tool_call>\n<invoke name="f">\n<parameter name="code">{}</parameter>\n</invoke>\n'
    "</minimax:tool_call>",
    "glm-4.7": "<tool_call>f<arg_key>code</arg_key><arg_value>{}</arg_value></tool_call>",
    "gemma4": '<|tool_call>call:f{{code:<|"|>{}<|"|>}}<tool_call|>',
    "llama4": '[f(code="{}")]',
    "hermes": '<tool_call>\n{{"name": "f", "arguments": {{"code":"{}"}}}}\n</tool_call>',
}


@pytest.mark.parametrize("format", sorted(WRITTEN))
def test_grammars_enforce_limits_of_texts(format: str, language: Callable[[str, str], Callable[[str], bool]]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": LIMITED}}
    allows = language("lark", PARSERS[format].grammar(ToolContext([tool], parallel=False)))
    assert allows(WRITTEN[format].format("ab/c"))
    for wrong in ("ab/ca", "abd", ""):
        assert not allows(WRITTEN[format].format(wrong)), wrong


def test_gemma_limits_texts_between_control_tokens(context: GrammarContext) -> None:
    """The quotes of the format are control tokens; the toy tokenizer's HELLO and WORLD stand for them."""
    tokens = {'<|"|>': HELLO}
    tool = {"type": "function", "function": {"name": "f", "parameters": LIMITED}}
    source = PARSERS["gemma4"].grammar(ToolContext([tool], parallel=False, control_tokens=tokens))
    grammar = LlguidanceCompiler("lark", context).compile(source)
    accepted = [grammar.accept(token) for token in (*b"<|tool_call>call:f{code:", HELLO, *b"ab/c")]
    assert all(accepted)
    assert not grammar.accept(ord("a"))
    assert grammar.accept(HELLO)
    assert all(grammar.accept(token) for token in b"}<tool_call|>")


def test_format_of_python_refuses_other_names() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a-b": {}}}}}
    with pytest.raises(RequestError, match="a-b"):
        PARSERS["llama4"].grammar(ToolContext([tool]))
