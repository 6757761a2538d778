"""`llamafw chat` in a terminal, against a server whose engine answers what the test says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from llamafw.testing.tiny import write_tiny_gguf
from support.page_server import PageServer, page_server
from support.scripted_engine import Script

pytest.importorskip("pty", reason="needs a pseudo-terminal")

from support.terminal import READY, Terminal, running_in_terminal  # imports pty

TEMPLATE = Path(__file__).parents[1] / "support/chat_templates/qwen3.jinja"  # with reasoning and tools

OpenChat = Callable[..., Terminal]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server without a key."""
    model = write_tiny_gguf(tmp_path_factory.mktemp("chat") / "chat.gguf", chat_template=TEMPLATE.read_text("utf-8"))
    with page_server(model) as server:
        yield server


@pytest.fixture
def script(server: PageServer) -> Iterator[Script]:
    """What the server's engine answers."""
    yield server.script
    server.script.reset()


@pytest.fixture
def open_chat(server: PageServer, script: Script, tmp_path: Path) -> Iterator[OpenChat]:
    """Return a function that starts a chat in a terminal."""
    with ExitStack() as stack:

        def open_chat(*flags: str, columns: int = 80) -> Terminal:
            chat: AbstractContextManager[Terminal] = running_in_terminal(
                "chat", "--url", server.url, *flags, columns=columns, XDG_STATE_HOME=str(tmp_path)
            )
            return stack.enter_context(chat)

        yield open_chat


def test_an_answer_is_rendered_as_markdown(open_chat: OpenChat, script: Script) -> None:
    script.answers = ["Some **bold** text.\n\n```python\nprint(1)\n```\n\n1. one\n2. two\n"]
    chat = open_chat()
    chat.enter("Hello?")
    shown = chat.expect("tokens/s.*context")
    assert "Some bold text." in shown
    assert "print(1)" in shown
    assert "`" not in shown
    assert "\x1b[1mbold" in chat.raw
    chat.expect(READY)
    chat.send("\x04")
    assert chat.exit_code() == 0


def test_messages_and_answers_are_the_next_prompt(open_chat: OpenChat, script: Script) -> None:
    script.answers = ["First answer.", "Second answer."]
    chat = open_chat("--system", "Be brief.")
    chat.enter("First question?")
    chat.enter("Second question?")
    chat.enter("/quit")
    assert chat.exit_code() == 0
    parts = ["Be brief.", "First question?", "First answer.", "Second question?"]
    positions = [script.prompts[1].index(part) for part in parts]
    assert positions == sorted(positions)


def test_ctrl_c_stops_the_answer_and_not_the_chat(open_chat: OpenChat, script: Script) -> None:
    script.answers = ["one two three four", "again"]
    script.hold()
    chat = open_chat()
    chat.enter("Count.")
    script.allow(5)
    chat.expect("one two")
    chat.interrupt()
    chat.expect("stopped; /continue goes on")
    assert script.idle.wait(60)  # the server has stopped, too
    script.release()
    chat.enter("Go on.")
    chat.expect("again")
    chat.enter("/quit")
    assert chat.exit_code() == 0
    assert "one two<|im_end|>" in script.prompts[1]


def test_ctrl_c_while_the_prompt_is_read_keeps_the_answer_that_was_there(open_chat: OpenChat, script: Script) -> None:
    script.answers = ["First answer.", "never"]
    chat = open_chat()
    chat.enter("Hello?")
    chat.expect(READY)
    script.hold()
    chat.send("/regen\r")
    chat.expect("reading")
    chat.interrupt()
    chat.expect("stopped")
    script.release()
    chat.enter("/continue")
    chat.expect(READY)
    assert "First answer." in script.prompts[2]


def test_ctrl_c_at_the_prompt_does_not_end_the_chat(open_chat: OpenChat) -> None:
    chat = open_chat()
    chat.expect(READY)
    chat.send("half a line")
    chat.interrupt()
    chat.expect("/quit ends the chat")
    chat.enter("Hello?")
    chat.expect("You said: Hello?")


def test_regen_answers_again(open_chat: OpenChat, script: Script) -> None:
    script.answers = ["First answer.", "Other answer."]
    chat = open_chat()
    chat.enter("Hello?")
    chat.enter("/regen")
    chat.expect("Other answer.")
    assert script.prompts[0] == script.prompts[1]


def test_a_cut_answer_can_be_continued(open_chat: OpenChat, script: Script) -> None:
    script.answers = ["one two three", " three"]
    chat = open_chat("--set", "max_tokens=2")
    chat.enter("Count.")
    chat.expect("cut off at the token limit.*/continue goes on")
    chat.enter("/continue")
    chat.expect("three")
    chat.expect(READY)
    assert script.prompts[1].endswith("one two")


def test_set_changes_options_and_names_the_option_in_errors(open_chat: OpenChat, script: Script) -> None:
    chat = open_chat()
    chat.enter("/set temprature 1")
    chat.expect("unknown option 'temprature'; did you mean 'temperature'")
    chat.enter("/set temperature hot")
    chat.expect("temperature must be a number")
    chat.enter("/set xtc_probability")
    chat.expect(r"xtc_probability = 0(\.0)? \(default\)")
    chat.enter("/set n_predict 1")
    chat.expect("n_predict = 1")
    chat.enter("Hello?")
    chat.expect("cut off at the token limit")
    chat.enter("/set n_predict default")
    chat.expect(r"\(default\)")
    chat.enter("Hello?")
    chat.expect("You said: Hello?")
    assert [request.n_predict for request in script.requests][0] == 1


def test_a_conversation_can_be_saved_and_loaded(open_chat: OpenChat, script: Script, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    chat = open_chat()
    chat.enter("/system Be brief.")
    chat.enter("/set top_k 7")
    chat.enter("Hello?")
    chat.enter(f"/save {file}")
    chat.expect("saved in")
    chat.enter("/quit")
    assert chat.exit_code() == 0
    assert json.loads(file.read_text())["options"] == {"top_k": 7}

    again = open_chat("--load", str(file))
    again.enter("And now?")
    again.expect("You said: And now?")
    assert all(part in script.prompts[1] for part in ("Be brief.", "Hello?", "You said: Hello?"))


def test_load_and_save_refuse_other_files(open_chat: OpenChat, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    chat = open_chat()
    chat.enter(f"/load {other}")
    chat.expect("is not a conversation")
    chat.enter(f"/save {other}")
    chat.expect("exists and is not a conversation")
    assert other.read_text() == "{}"


def test_tokens_counts_the_conversation(open_chat: OpenChat) -> None:
    chat = open_chat()
    chat.enter("/tokens")
    chat.expect("has 0 tokens of 4096")
    chat.enter("Hello?")
    chat.enter("/tokens")
    chat.expect(r"has [1-9]\d* tokens of 4096")


def test_messages_can_have_several_lines(open_chat: OpenChat, script: Script) -> None:
    chat = open_chat()
    chat.enter('"""')
    chat.send('first\rsecond\r"""\r')
    chat.expect("You said")
    chat.enter("third\\")
    chat.send("fourth\x1b\rfifth\r")
    chat.expect("You said")
    assert "user\nfirst\nsecond<" in script.prompts[0]
    assert "user\nthird\nfourth\nfifth<" in script.prompts[1]


def test_earlier_messages_can_be_recalled_in_a_later_chat(open_chat: OpenChat, tmp_path: Path) -> None:
    first = open_chat()
    first.enter("Remember me.")
    first.enter("/quit")
    first.exit_code()
    later = open_chat()
    later.expect(READY)
    later.send("\x1b[A\x1b[A\r")  # twice up: /quit comes before
    later.expect("You said: Remember me.")
    assert (tmp_path / "llamafw/chat-history").stat().st_mode & 0o077 == 0


def test_tab_completes_commands_and_options(open_chat: OpenChat) -> None:
    chat = open_chat()
    chat.expect(READY)
    chat.send("/sys\t")
    chat.expect("/?s?y?s?tem")
    chat.send(" Be brief.\r")
    chat.expect("Be brief.")
    chat.expect(READY)
    chat.send("/set xtc_thr\t")
    chat.expect("eshold")
    chat.send(" 0.3\r")
    chat.expect(r"xtc_threshold = 0\.3")


def test_reasoning_is_dim_and_is_not_part_of_the_answer(open_chat: OpenChat, script: Script) -> None:
    script.answers = ["<think>\nLet me see.\n</think>\n\nForty-two."]
    chat = open_chat()
    chat.enter("Why?")
    chat.expect("Let me see.*Forty-two")
    assert "\x1b[2;3mLet me see." in chat.raw
    assert "think>" not in chat.raw


def test_control_codes_of_the_model_do_not_reach_the_terminal(open_chat: OpenChat, script: Script) -> None:
    script.answers = ["red \x1b[31m text \x07\u202e <b>tag</b>"]
    chat = open_chat()
    chat.enter("Hello?")
    chat.expect("tokens/s")
    assert "\x1b[31m" not in chat.raw
    assert "\x07" not in chat.raw
    assert "\u202e" not in chat.raw
    assert "<b>tag</b>" in chat.raw  # HTML is shown, not dropped


@pytest.mark.parametrize("columns", [20, 40])
def test_wide_characters_fit_into_a_narrow_terminal(open_chat: OpenChat, script: Script, columns: int) -> None:
    from rich.cells import cell_len

    script.answers = ["日本語のとても長い文章です。" * 4]
    chat = open_chat(columns=columns)
    chat.enter("Hello?")
    chat.expect("1 token, context")
    lines = [line for line in re.split(r"\x1b\[[\d;?]*[A-Za-z]|[\r\n]", chat.raw) if "文章" in line]
    assert lines
    assert max(map(cell_len, lines)) <= columns


def test_a_full_context_is_explained(open_chat: OpenChat, script: Script) -> None:
    script.n_ctx = 20
    chat = open_chat()
    chat.enter("Hello? " * 10)
    chat.expect("the conversation is too long.*--ctx-size")
    chat.enter("/quit")
    assert chat.exit_code() == 0


def test_an_error_in_the_middle_of_an_answer_is_shown(open_chat: OpenChat, script: Script) -> None:
    script.answers = [RuntimeError("broken")]
    chat = open_chat()
    chat.enter("Hello?")
    chat.expect("internal|failed|error")
    chat.enter("Still there?")
    chat.expect("You said: Still there?")


def test_unknown_commands_and_slashes(open_chat: OpenChat) -> None:
    chat = open_chat()
    chat.enter("/sistem x")
    chat.expect("unknown command /sistem; did you mean '/system'")
    chat.enter("/etc/hosts is a file")
    chat.expect("You said: /etc/hosts is a file")
    chat.enter("//help me")
    chat.expect("You said: /help me")
    chat.enter("/help")
    chat.expect("/regen.*/tokens.*Ctrl-C stops")


def test_a_server_with_a_key_asks_for_it(tmp_path: Path, server: PageServer) -> None:
    model = write_tiny_gguf(tmp_path / "chat.gguf")
    with page_server(model, api_key=("secret",)) as keyed:
        with running_in_terminal("chat", "--url", keyed.url) as chat:
            chat.expect("--api-key")
            assert chat.exit_code() == 1
        with running_in_terminal("chat", "--url", keyed.url, "--api-key", "secret") as chat:
            chat.enter("Hello?")
            chat.expect("You said: Hello?")


def test_a_pipe_gets_plain_text(server: PageServer, script: Script) -> None:
    script.answers = ["<think>\nHm.\n</think>\n\nSome **bold**\x1b[31m text."]
    command = [sys.executable, "-m", "llamafw", "chat", "--url", server.url, "-p", "Sum up."]
    result = subprocess.run(command, input="A long text.\n", capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "Some **bold**[31m text.\n", "")
    assert "user\nSum up.\n\nA long text.<" in script.prompts[0]


PLUGIN_THAT_WARNS = """
import logging

from llamafw import hookimpl

logging.getLogger("llamafw.plugins").warning("it took 500 ms")


@hookimpl
def extend_openapi():
    return {}
"""


@pytest.mark.parametrize("command", ["chat", "run"])
def test_warnings_about_plugins_are_not_printed(
    server: PageServer, script: Script, command: str, tmp_path: Path
) -> None:
    plugin = tmp_path / "slow.py"
    plugin.write_text(PLUGIN_THAT_WARNS, "utf-8")
    script.answers = ["Yes."]
    words = [sys.executable, "-m", "llamafw", command, "--url", server.url, "--plugin", str(plugin), "-p", "Is it so?"]
    result = subprocess.run(words, input="", capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "Yes.\n", "")


def test_a_chat_without_terminal_and_prompt_is_a_usage_error(server: PageServer) -> None:
    command = [sys.executable, "-m", "llamafw", "chat", "--url", server.url]
    result = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "there is no prompt" in result.stderr
