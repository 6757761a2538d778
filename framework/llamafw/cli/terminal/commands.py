"""The commands of a chat, such as ``/set``, and what they do to the conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafw.cli.terminal.answers import printable
from llamafw.cli.terminal.conversation import Conversation
from llamafw.cli.terminal.fields import Fields
from llamafw.cli.terminal.server import ChatServer
from llamafw.errors import LlamafwError, did_you_mean

_DEFAULT = "default"
"""The value of ``/set`` that resets an option."""


class CommandError(LlamafwError):
    """A command cannot do what it is asked for."""


class Quit(Exception):  # not an error
    """The chat ends."""


class AnswerAgain(Exception):  # not an error
    """The conversation is to be answered, or its last answer continued.

    Attributes
    ----------
    replaced : dict or None
        The answer that the new one replaces.
    """

    def __init__(self, replaced: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.replaced = replaced


@dataclass(frozen=True, slots=True)
class Command:
    """A command, as ``/help`` lists it."""

    run: Callable[[Commands, str], None]
    arguments: str
    help: str


class Commands:
    """Runs the commands of one chat.

    Parameters
    ----------
    conversation : Conversation
        What the commands change.
    server : ChatServer
        The server, which knows the options.
    print_line : callable
        Prints a line.
    path : Path, optional
        The file that the conversation was loaded from; ``/save`` without a name writes to it.
    """

    def __init__(
        self, conversation: Conversation, server: ChatServer, print_line: Callable[[str], None], path: Path | None
    ) -> None:
        self.conversation, self.server, self.path = conversation, server, path
        self._print = print_line

    @property
    def fields(self) -> Fields:
        """The options that exist."""
        return self.server.fields

    def run(self, line: str) -> None:
        """Run a line such as ``/set top_k 5``.

        Raises
        ------
        LlamafwError
            The command does not exist or fails; the message says why.
        Quit, AnswerAgain
            What the chat is to do next.
        """
        name, _, argument = line.partition(" ")
        command = COMMANDS.get(ALIASES.get(name, name))
        if command is None:
            hint = did_you_mean(name, COMMANDS) or "; /help lists the commands"
            raise CommandError(f"unknown command {name}{hint} (type // to begin a message with /)")
        if argument.strip() and not command.arguments:
            raise CommandError(f"{name} takes no argument")
        command.run(self, argument.strip())

    def help(self, argument: str) -> None:
        """List the commands."""
        width = max(len(f"{name} {command.arguments}") for name, command in COMMANDS.items())
        for name, command in COMMANDS.items():
            self._print(f"{f'{name} {command.arguments}':{width}}  {command.help}")
        self._print("")
        self._print('Enter sends the message. Alt+Enter, or Enter after \\ or between """ and """, begins a new line.')
        self._print("Ctrl-C stops an answer. Ctrl-D ends the chat.")

    def system(self, argument: str) -> None:
        """Show, set or remove the system prompt."""
        if argument:
            self.conversation.system = "" if argument == "off" else argument
        self._print(self.conversation.system or "no system prompt")

    def set(self, argument: str) -> None:
        """List options, describe one, or set one."""
        name, _, value = re.sub(r"\s*[=\s]\s*", " ", argument, count=1).partition(" ")
        if not name:
            self._list_options()
        elif not value:
            description = self.fields.describe(name)
            self._print_option(name)
            if description:
                self._print(description)
        elif value == _DEFAULT:
            self.fields.describe(name)  # checks the name
            self.conversation.options.pop(name, None)
            self._print_option(name)
        else:
            self.conversation.options[name] = self.fields.parse(name, value)
            self._print_option(name)

    def _list_options(self) -> None:
        others = [name for name in self.conversation.options if name not in self.fields.names]
        for name in (*self.fields.names, *others):
            self._print_option(name)
        self._print("")
        self._print(f"/set NAME describes an option, /set NAME VALUE sets it, /set NAME {_DEFAULT} resets it")

    def _print_option(self, name: str) -> None:
        options = self.conversation.options
        value = options.get(name, self.fields.default(name))
        note = "" if name in options else " (default)"
        self._print(f"{name} = {json.dumps(value, ensure_ascii=False)}{note}")

    def save(self, argument: str) -> None:
        """Write the conversation to a file."""
        path = self._path(argument)
        if not path.suffix:
            path = path.with_suffix(".json")
        self.conversation.save(path)
        self.path = path
        self._print(f"saved in {path}")

    def load(self, argument: str) -> None:
        """Continue a conversation from a file."""
        path = self._path(argument)
        if not path.exists() and path.with_name(f"{path.name}.json").exists():
            path = path.with_name(f"{path.name}.json")
        self.adopt(Conversation.load(path))
        self.path = path
        self._print(f"loaded {len(self.conversation.messages)} messages from {path}")

    def adopt(self, loaded: Conversation) -> None:
        """Take over the messages, the system prompt and the options of another conversation.

        Options that this server does not have are left out, with a line for each.
        """
        options = {}
        for name, value in loaded.options.items():
            try:
                options[name] = self.fields.parse(name, json.dumps(value))
            except LlamafwError as error:
                self._print(printable(f"{error}; the option is left out"))
        self.conversation.messages, self.conversation.system = loaded.messages, loaded.system
        self.conversation.options = options

    def _path(self, argument: str) -> Path:
        if argument:
            return Path(argument).expanduser()
        if self.path is None:
            raise CommandError("name a file, such as chat.json")
        return self.path

    def regenerate(self, argument: str) -> None:
        """Answer the last message again."""
        if not self.conversation.messages:
            raise CommandError("there is no message to answer")
        raise AnswerAgain(self.conversation.drop_answer())

    def go_on(self, argument: str) -> None:
        """Continue the last answer."""
        if not self.conversation.messages or self.conversation.messages[-1]["role"] != "assistant":
            raise CommandError("there is no answer to continue")
        raise AnswerAgain

    def tokens(self, argument: str) -> None:
        """Count the tokens of the conversation."""
        count = self.server.count_tokens(self.conversation) if self.conversation.api_messages else 0
        of = f" of {self.server.n_ctx} in the context" if self.server.n_ctx else ""
        self._print(f"the conversation has {count} tokens{of}")

    def clear(self, argument: str) -> None:
        """Begin a new conversation; the system prompt and the options stay."""
        self.conversation.messages.clear()
        self._print("a new conversation begins")

    def quit(self, argument: str) -> None:
        """End the chat."""
        raise Quit


COMMANDS = {
    "/system": Command(Commands.system, "[TEXT|off]", "show, set or remove the system prompt"),
    "/set": Command(
        Commands.set, "[NAME [VALUE|default]]", "list, describe, set or reset options, such as temperature"
    ),
    "/regen": Command(Commands.regenerate, "", "answer the last message again"),
    "/continue": Command(Commands.go_on, "", "continue an answer that was cut off or stopped"),
    "/tokens": Command(Commands.tokens, "", "count the tokens of the conversation"),
    "/clear": Command(Commands.clear, "", "begin a new conversation; system prompt and options stay"),
    "/save": Command(Commands.save, "[FILE]", "write the conversation to a file"),
    "/load": Command(Commands.load, "[FILE]", "continue a conversation from a file"),
    "/help": Command(Commands.help, "", "list the commands"),
    "/quit": Command(Commands.quit, "", "end the chat"),
}
"""All commands, in the order of ``/help``."""

ALIASES = {"/exit": "/quit", "/bye": "/quit", "/?": "/help", "/retry": "/regen"}


def is_command(line: str) -> bool:
    """Return whether a line is meant to be a command, and not a message with a path such as ``/etc/hosts``."""
    return re.match(r"/[a-z?]+(\s|$)", line) is not None
