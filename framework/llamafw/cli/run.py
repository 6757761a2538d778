"""``llamafw run``: answer one prompt, for scripts."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from llamafw.cli.parser import CommandParser
from llamafw.cli.terminal.flags import make_parser as make_common_parser
from llamafw.cli.terminal.flags import parse
from llamafw.errors import SettingsError
from llamafw.plugins import Plugins

EXAMPLE = """\
llamafw run smollm2-135m "Why is the sky blue?"
llamafw run -m model.gguf --json-schema @person.json -p "Invent a person." > person.json
llamafw run --url http://127.0.0.1:8080 -p "Describe these changes." < changes.diff"""


def run(argv: list[str]) -> int:
    """Print the answer to a prompt; return the exit code."""
    invocation = parse(argv, make_parser, _arrange)
    args = invocation.args
    if args.text is not None and args.prompt is not None:
        raise SettingsError("run: the prompt is given twice: as PROMPT and with -p")
    schema = None if args.json_schema is None else read_schema(args.json_schema)

    from rich.console import Console

    from llamafw.cli.terminal.conversation import Conversation
    from llamafw.cli.terminal.one_shot import answer_once, read_prompt, set_options
    from llamafw.cli.terminal.server import connect
    from llamafw.cli.terminal.view import PlainView

    prompt = read_prompt(args.prompt if args.text is None else args.text, "run")
    conversation = Conversation(model=args.name if args.url else None, system=args.system or "")
    conversation.messages.append({"role": "user", "content": prompt})
    errors = Console(stderr=True)
    with connect(invocation, errors) as server:
        set_options(conversation, args.set, server, "run")
        if schema is not None:
            conversation.options["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema},
            }
        return answer_once(server, conversation, PlainView(), errors, must_be_whole=schema is not None)


def make_parser(plugins: Plugins, config: str | None) -> CommandParser:
    """Return the parser of this command."""
    parser = make_common_parser(
        "run",
        "Print the answer to one prompt, as plain text. The exit code is 1 if the request fails. The flags for the "
        "model are those of `llamafw serve`.",
        "llamafw run [MODEL | -m FILE | -hf USER/REPO[:QUANT] | --url URL] [OPTIONS] [PROMPT]",
        EXAMPLE,
        plugins,
        config,
    )
    parser.add_argument(
        "text",
        metavar="PROMPT",
        nargs="?",
        help="the same as -p PROMPT; a single word is MODEL if the prompt comes from -p or a pipe",
    )
    parser.add_argument(
        "-j",
        "--json-schema",
        metavar="SCHEMA|@FILE",
        help="print JSON that is valid against this JSON Schema, or against the one in FILE",
    )
    return parser


def _arrange(args: Namespace, has_model: bool) -> None:
    """Decide whether a single argument is the model or the prompt."""
    if args.name is None or args.text is not None:
        return
    has_prompt = args.prompt is not None or not sys.stdin.isatty()
    is_text = any(map(str.isspace, args.name)) and not Path(args.name).expanduser().exists()
    if has_model or is_text or not has_prompt:
        args.name, args.text = None, args.name


def read_schema(text: str) -> Any:
    """Return the JSON Schema that ``--json-schema`` gives or names; raise SettingsError."""
    source = "--json-schema"
    if text.startswith("@"):
        source = text[1:]
        try:
            text = Path(source).expanduser().read_text("utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SettingsError(f"run: --json-schema: {source} cannot be read: {reason}") from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise SettingsError(f"run: {source} is not valid JSON: {error}") from None
