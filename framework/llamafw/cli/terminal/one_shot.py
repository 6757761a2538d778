"""Answer one prompt, and exit."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console

from llamafw.cli.terminal.answers import Answer
from llamafw.cli.terminal.conversation import Conversation
from llamafw.cli.terminal.fields import OptionError
from llamafw.cli.terminal.server import ChatServer, catch_interrupt
from llamafw.cli.terminal.view import View
from llamafw.errors import SettingsError

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


def read_prompt(text: str | None, command: str) -> str:
    """Return the prompt: the text, and the input if it is piped into the command.

    Raises
    ------
    SettingsError
        There is neither.
    """
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    prompt = "\n\n".join(part for part in (text, piped.strip("\n")) if part)
    if not prompt.strip():
        raise SettingsError(f"{command}: there is no prompt; use -p TEXT, or pipe a text into the command")
    return prompt


def set_options(conversation: Conversation, assignments: list[str], server: ChatServer, command: str) -> None:
    """Set the options that ``--set NAME=VALUE`` names; raise SettingsError."""
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise SettingsError(f"{command}: --set {assignment}: write NAME=VALUE")
        try:
            conversation.options[name.strip()] = server.fields.parse(name.strip(), value.strip())
        except OptionError as error:
            raise SettingsError(f"{command}: --set {assignment}: {error}") from None


def answer_once(
    server: ChatServer, conversation: Conversation, view: View, errors: Console, *, must_be_whole: bool = False
) -> int:
    """Print the answer to a conversation, and warnings on stderr; return the exit code.

    Parameters
    ----------
    server : ChatServer
        The server.
    conversation : Conversation
        Ends with a user's message.
    view : View
        Shows the answer.
    errors : Console
        The console of stderr.
    must_be_whole : bool
        Whether an answer that was cut is a failure.

    Raises
    ------
    ApiError
        The request has failed.
    """
    with catch_interrupt() as stop:
        answer = server.answer(conversation, view, stop)
    if stop.is_set():
        return INTERRUPTED
    print_warnings(
        answer,
        server,
        lambda sentence: errors.print(f"llamafw: {sentence}", markup=False, highlight=False, soft_wrap=True),
    )
    return 1 if must_be_whole and answer.finish == "length" else 0


def print_warnings(answer: Answer, server: ChatServer, print_line: Callable[[str], None]) -> None:
    """Print what the user should know about an answer."""
    for sentence in answer.warnings(server.n_ctx):
        print_line(sentence)
