"""``llamafw chat``: chat with a model in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

from llamafw.cli.parser import CommandParser
from llamafw.cli.terminal.flags import make_parser as make_common_parser
from llamafw.cli.terminal.flags import parse
from llamafw.errors import SettingsError
from llamafw.plugins import Plugins

EXAMPLE = """\
llamafw chat smollm2-135m
llamafw chat --url http://127.0.0.1:8080 --api-key KEY
llamafw chat -p "Sum this up." < report.txt"""


def run(argv: list[str]) -> int:
    """Chat until the user ends it, or answer one prompt if there is one on the command line or in a pipe."""
    invocation = parse(argv, make_parser)
    args = invocation.args

    from rich.console import Console

    from llamafw.cli.terminal.answers import printable
    from llamafw.cli.terminal.conversation import Conversation
    from llamafw.cli.terminal.one_shot import answer_once, read_prompt, set_options
    from llamafw.cli.terminal.server import connect
    from llamafw.cli.terminal.view import PlainView, TerminalView

    console, errors = Console(), Console(stderr=True)
    is_interactive = args.prompt is None and sys.stdin.isatty()
    if is_interactive and not console.is_terminal:
        raise SettingsError("chat: the output is not a terminal; use -p TEXT for a single answer")
    prompt = None if is_interactive else read_prompt(args.prompt, "chat")
    path = Path(args.load).expanduser() if args.load else None
    loaded = Conversation.load(path) if path is not None else None

    conversation = Conversation(model=args.name if args.url else None)
    with connect(invocation, errors) as server:
        from llamafw.cli.terminal.commands import Commands

        commands = Commands(conversation, server, lambda line: console.print(line, markup=False, highlight=False), path)
        if loaded is not None:
            commands.adopt(loaded)
        if args.system is not None:
            conversation.system = args.system
        set_options(conversation, args.set, server, "chat")
        if prompt is not None:
            conversation.messages.append({"role": "user", "content": prompt})
            is_plain = args.no_markdown or not console.is_terminal
            return answer_once(server, conversation, PlainView() if is_plain else TerminalView(console), errors)

        from llamafw.cli.terminal.session import ChatSession

        name = printable(server.model_name) or "the model"
        console.print(f"{name} is ready; /help lists the commands", style="dim", markup=False, highlight=False)
        ChatSession(server, commands, console, markdown=not args.no_markdown).run()
    return 0


def make_parser(plugins: Plugins, config: str | None) -> CommandParser:
    """Return the parser of this command."""
    parser = make_common_parser(
        "chat",
        "Chat in the terminal with a model that is loaded in this process, or with a server. The flags for the model "
        "are those of `llamafw serve`.",
        "llamafw chat [MODEL | -m FILE | -hf USER/REPO[:QUANT] | --url URL] [OPTIONS]",
        EXAMPLE,
        plugins,
        config,
    )
    parser.add_argument("--load", metavar="FILE", help="continue a conversation that /save has written")
    parser.add_argument("--no-markdown", action="store_true", help="show answers as the model writes them")
    return parser
