"""A chat in a terminal: read a message or a command, show the answer, until the user ends it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from llamafw.cli.terminal.answers import printable
from llamafw.cli.terminal.client import ApiError
from llamafw.cli.terminal.commands import AnswerAgain, Commands, Quit, is_command
from llamafw.cli.terminal.one_shot import print_warnings
from llamafw.cli.terminal.prompt import MessageReader
from llamafw.cli.terminal.server import ChatServer, catch_interrupt
from llamafw.cli.terminal.view import TerminalView
from llamafw.errors import LlamafwError


class ChatSession:
    """A chat.

    Parameters
    ----------
    server : ChatServer
        The server.
    commands : Commands
        The commands, with the conversation.
    console : Console
        The terminal.
    markdown : bool
        Whether answers are rendered as Markdown.
    """

    def __init__(self, server: ChatServer, commands: Commands, console: Console, *, markdown: bool) -> None:
        self._server, self._commands, self._console = server, commands, console
        self._markdown = markdown
        self._reader = MessageReader(lambda: server.fields.names)

    def run(self) -> None:
        """Chat until the user ends it."""
        while True:
            try:
                text = self._reader.read()
                if text:
                    self._handle(text)
            except (EOFError, Quit):
                return
            except KeyboardInterrupt:
                self._note("Ctrl-D or /quit ends the chat")
            except LlamafwError as error:
                self._fail(error)

    def _handle(self, text: str) -> None:
        """Run a command, or answer a message."""
        if is_command(text):
            try:
                self._commands.run(text)
            except AnswerAgain as again:
                self._answer(again.replaced)
            return
        message = {"role": "user", "content": text.removeprefix("/") if text.startswith("//") else text}
        messages = self._commands.conversation.messages
        if messages and messages[-1]["role"] == "user":  # its answer has failed, or was stopped before it began
            messages.pop()
        messages.append(message)
        self._answer()

    def _answer(self, replaced: dict[str, Any] | None = None) -> None:
        """Show the answer to the conversation, and add it, as far as it was received.

        If nothing was received, the answer that it should have replaced stays.
        """
        conversation = self._commands.conversation
        with catch_interrupt() as stop, _without_echo():
            view = TerminalView(self._console, markdown=self._markdown)
            try:
                answer = self._server.answer(conversation, view, stop)
            except ApiError as error:
                self._keep(error.answer.message if error.answer else None, replaced)
                raise
        self._keep(answer.message, replaced)
        print_warnings(answer, self._server, self._warn)
        if stop.is_set():
            self._note("stopped; /continue goes on, /regen answers again")
        else:
            if answer.finish == "length":
                self._note("/continue goes on, /set max_tokens changes the limit")
            self._note(answer.figures(self._server.n_ctx))
        self._console.print()

    def _keep(self, message: dict[str, Any] | None, replaced: dict[str, Any] | None) -> None:
        """Add an answer to the conversation, or the rest of one to its first part."""
        conversation = self._commands.conversation
        if message is None or not (message["content"] or message.get("reasoning_content")):
            conversation.messages += [] if replaced is None else [replaced]
            return
        if (first := conversation.drop_answer()) is not None:
            for name in ("content", "reasoning_content"):
                if name in first:
                    message[name] = first[name] + message.get(name, "")
        conversation.messages.append(message)

    def _note(self, text: str) -> None:
        if text:
            self._console.print(text, style="dim", markup=False, highlight=False)

    def _warn(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False, highlight=False)

    def _fail(self, error: LlamafwError) -> None:
        self._console.print(printable(str(error)), style="red", markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _without_echo() -> Iterator[None]:
    """Keep keys that are pressed during an answer from being drawn into it.

    On Windows, the console does that by itself.
    """
    try:
        import termios
    except ImportError:
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    quiet = [*before]
    quiet[3] &= ~(termios.ECHO | termios.ECHONL)
    termios.tcsetattr(fd, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
