"""Read the user's messages in a terminal: history, several lines, completion of commands and options."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from llamafw.cli.terminal.commands import COMMANDS

QUOTES = '"""'
PROMPT = "> "
CONTINUATION = "  "
HISTORY_FILE = "chat-history"


class MessageReader:
    """Reads messages and commands.

    Parameters
    ----------
    option_names : callable
        Returns the names that ``/set`` completes.
    """

    def __init__(self, option_names: Callable[[], Iterable[str]]) -> None:
        self._session: PromptSession[str] = PromptSession(
            HTML("<b>{}</b>").format(PROMPT),
            prompt_continuation=CONTINUATION,
            multiline=True,
            key_bindings=_key_bindings(),
            history=open_history(),
            completer=_ChatCompleter(option_names),
            complete_while_typing=False,
            enable_open_in_editor=False,
        )

    def read(self) -> str:
        """Return what the user has entered, without surrounding quotes.

        Raises
        ------
        EOFError
            The user has pressed Ctrl-D.
        KeyboardInterrupt
            The user has pressed Ctrl-C.
        """
        return without_quotes(self._session.prompt())


def open_history() -> History:
    """Return the history of earlier chats, which only this user can read; an empty one if it cannot be stored."""
    from platformdirs import user_state_path

    path = user_state_path("llamafw", appauthor=False) / HISTORY_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


def is_incomplete(text: str) -> bool:
    """Return whether Enter adds a line to the text, because it opens quotes that it does not close."""
    stripped = text.strip()
    return stripped.startswith(QUOTES) and (len(stripped) < 2 * len(QUOTES) or not stripped.endswith(QUOTES))


def without_quotes(text: str) -> str:
    """Return the text inside of ``\"\"\"``, or else the text itself without surrounding space."""
    stripped = text.strip()
    if stripped.startswith(QUOTES) and not is_incomplete(stripped):
        return stripped.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
    return stripped


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif is_incomplete(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _add_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


class _ChatCompleter(Completer):
    """Completes the names of commands, of options after ``/set``, and of files after ``/save`` and ``/load``."""

    def __init__(self, option_names: Callable[[], Iterable[str]]) -> None:
        self._option_names = option_names
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what can be at the cursor."""
        text = document.text_before_cursor
        command, space, argument = text.partition(" ")
        names: Iterable[Any] = ()
        if not space:
            names = COMMANDS if text.startswith("/") else ()
            argument = text
        elif command == "/set" and " " not in argument:
            names = self._option_names()
        elif command in ("/save", "/load"):
            yield from self._paths.get_completions(Document(argument), complete_event)
        for name in names:
            if name.startswith(argument):
                yield Completion(name, start_position=-len(argument))
