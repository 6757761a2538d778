"""The parts of `llamafw chat` that need neither a terminal nor a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafw.cli.read_settings import load_plugins
from llamafw.cli.terminal.answers import Answer, printable
from llamafw.cli.terminal.commands import is_command
from llamafw.cli.terminal.conversation import Conversation, ConversationError
from llamafw.cli.terminal.fields import SET_BY_CHAT, Fields, OptionError
from llamafw.cli.terminal.prompt import is_incomplete, without_quotes
from llamafw.cli.terminal.view import complete_blocks
from llamafw.settings import Settings
from llamafw.spec import merged_document

SAMPLER = """
from llamafw import hookimpl


class Mine:
    truncates = False
    options = {"mine_strength": {"type": "number", "minimum": 0, "maximum": 2, "default": 0, "description": "Much."}}

    def create(self, request, context):
        return None


@hookimpl
def register_samplers(register):
    register("mine", Mine())
"""


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Fields:
    """The fields of a server with a plugin's sampler."""
    plugin = tmp_path_factory.mktemp("plugin") / "mine.py"
    plugin.write_text(SAMPLER)
    settings = Settings(plugin=(str(plugin),))
    return Fields(merged_document(load_plugins(settings), settings))


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("", ""),
        ("one", ""),
        ("one\n\n", ""),
        ("one\n\ntwo", "one\n\n"),
        ("# Title\ntext", "# Title\n"),
        ("one\n\n```py\na\n\nb", "one\n\n"),
        ("```py\na\n\nb\n```\n", ""),
        ("```py\na\n```\ntext", "```py\na\n```\n"),
        ("1. a\n\n2. b\n\n3.", ""),
        ("- a\n- b\n\ntext", "- a\n- b\n\n"),
        ("| a |\n|---|\n| 1 |\n", ""),
        ("| a |\n|---|\n| 1 |\n\nx", "| a |\n|---|\n| 1 |\n\n"),
    ],
)
def test_blocks_are_complete_when_another_follows(text: str, complete: str) -> None:
    assert text[: complete_blocks(text)] == complete


def test_options_of_all_samplers_can_be_set(fields: Fields) -> None:
    samplers = load_plugins(Settings()).registry("sampler")
    names = {name for sampler in samplers.values() for name in sampler.options}
    assert len(names) > 20
    assert names | {"mine_strength"} <= {*fields.names}
    assert not SET_BY_CHAT & {*fields.names}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.5", 0.5),
        ("top_k", "7", 7),
        ("mine_strength", "1.5", 1.5),
        ("ignore_eos", "on", True),
        ("ignore_eos", "false", False),
        ("stop", "END", "END"),
        ("stop", '["a", "b"]', ["a", "b"]),
        ("samplers", '["top_k", "mine"]', ["top_k", "mine"]),
        ("temperature", "null", None),
    ],
)
def test_values_are_read(fields: Fields, name: str, text: str, value: object) -> None:
    assert fields.parse(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("temperature", "hot", "temperature must be a number"),
        ("mine_strength", "3", "mine_strength must be at most 2"),
        ("samplers", '["tpo_k"]', "samplers"),
        ("mine_strenght", "1", "did you mean 'mine_strength'"),
        ("messages", "[]", "messages cannot be set here"),
    ],
)
def test_errors_name_the_option(fields: Fields, name: str, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        fields.parse(name, text)


def test_plugins_options_are_described(fields: Fields) -> None:
    assert fields.describe("mine_strength").startswith("Much. (Added by the plugin")
    assert fields.default("mine_strength") == 0


def test_a_server_without_document_takes_any_option() -> None:
    fields = Fields(None)
    assert (fields.parse("foo", "1"), fields.parse("foo", "bar")) == (1, "bar")
    with pytest.raises(OptionError, match="not the name of an option"):
        fields.parse("a b", "1")


def test_conversations_survive_a_file(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "Grüße 日本"},
        {"role": "assistant", "content": "a", "reasoning_content": "b"},
    ]
    conversation = Conversation("m", "Be brief.", {"top_k": 3}, messages)
    conversation.save(tmp_path / "talk.json")
    assert Conversation.load(tmp_path / "talk.json") == conversation


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "llamafw chat", "version": 2}', '{"format": "llamafw chat", "version": 1}']
)
def test_other_files_are_not_conversations(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConversationError, match=r"x\.json"):
        Conversation.load(tmp_path / "x.json")


def test_an_answer_collects_the_events_of_a_stream() -> None:
    answer = Answer()
    assert answer.add({"prompt_progress": {"total": 10, "processed": 5}}) == ("", "")
    assert answer.progress == 0.5
    assert answer.add({"choices": [{"delta": {"reasoning_content": "Hm.\x1b"}}]}) == ("Hm.", "")
    assert answer.add({"choices": [{"delta": {"content": "Yes"}}]}) == ("", "Yes")
    answer.add({"choices": [{"delta": {}, "finish_reason": "length"}], "truncated": True})
    answer.add({"choices": [], "usage": {"prompt_tokens": 90, "completion_tokens": 10}})
    assert answer.message == {"role": "assistant", "content": "Yes", "reasoning_content": "Hm."}
    assert answer.figures(100) == "10 tokens, context 100 of 100"
    full, cut = answer.warnings(100), answer.warnings(1000)
    assert "because the context is full" in full[1]
    assert "at the token limit" in cut[1]
    assert "has not seen all of it" in full[0]


def test_control_characters_are_not_printable() -> None:
    assert printable("a\x1b[31m\x07\x9b\u202eb\tc\nd\ud800") == "a[31mb\tc\nd"


@pytest.mark.parametrize(
    ("line", "expected"), [("/set", True), ("/set x 1", True), ("/?", True), ("/etc/hosts", False), ("//set", False)]
)
def test_paths_are_not_commands(line: str, expected: bool) -> None:
    assert is_command(line) is expected


def test_quotes_surround_several_lines() -> None:
    assert is_incomplete('"""')
    assert is_incomplete('"""one\ntwo')
    assert not is_incomplete('"""one\ntwo"""')
    assert not is_incomplete("one")
    assert without_quotes(' """\none\n  two\n""" ') == "one\n  two"
    assert without_quotes(' one "two" ') == 'one "two"'
