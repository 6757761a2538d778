"""Render chats with Jinja templates, by the conventions that models' templates rely on.

The conventions are those of `transformers`' apply_chat_template: https://huggingface.co/docs/transformers/chat_templating
Independent of where templates come from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from llamafw import ChatContext, ModelError, RequestError
from llamafw_plugins.chat_formats.meter import MAX_SIZE, LimitError, checked
from llamafw_plugins.chat_formats.sandbox import LimitedEnvironment

MAX_TEMPLATE = 2**17  # characters; those of well-known models have up to 20,000
MAX_INDENT = 16  # of tojson, in characters
MAX_TEXT = 1000  # of the message of raise_exception and the format of strftime_now, in characters


class Refusal(Exception):
    """A template called ``raise_exception``."""


class JinjaChatFormat:
    """A chat format written as a Jinja template.

    See `llamafw.ChatFormat`.

    Parameters
    ----------
    template : str
        The template's text.
    context : ChatContext
        The texts of BOS and EOS.

    Raises
    ------
    ModelError
        The template is not valid.
    """

    def __init__(self, template: str, context: ChatContext) -> None:
        self.source = template
        self._special = {"bos_token": context.bos_token, "eos_token": context.eos_token}
        self._environment = make_environment()
        if len(template) > MAX_TEMPLATE:
            raise ModelError(f"the chat template has {len(template)} characters, more than {MAX_TEMPLATE}")
        try:
            self._template = self._environment.compile_text(template)
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template is not valid: line {error.lineno}: {error.message}") from None
        except LimitError as error:
            raise ModelError(f"the chat template is too long: {error}") from None
        except Exception as error:  # jinja does not check everything: deep nesting is a RecursionError
            raise ModelError(f"the chat template is not valid: {type(error).__name__}: {error}") from None

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Return the prompt.

        Raises
        ------
        RequestError
            The template refuses the messages, fails, takes too long or writes too much.
        """
        all_variables = {
            "tools": None,
            "documents": None,
            **variables,
            **self._special,
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._environment.run(self._template, all_variables)
        except Refusal as refusal:
            raise RequestError(f"the chat template refused: {refusal}", param="messages") from None
        except LimitError as error:
            raise RequestError(f"the chat template was stopped: {error}", param="messages") from None
        except Exception as error:
            # a template can raise anything: undefined names, wrong types, endless recursion
            raise RequestError(
                f"the chat template failed: {str(error) or type(error).__name__}", param="messages"
            ) from error


def make_environment() -> LimitedEnvironment:
    """Return the environment that chat templates expect."""
    environment = LimitedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationExtension]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


class GenerationExtension(Extension):
    """Ignores ``{% generation %}`` and ``{% endgeneration %}``, which mark answers for training."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the block's body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return ``value`` as JSON.

    Unlike jinja's own filter, it keeps characters outside ASCII and does not escape HTML.
    """
    if indent is not None and not 0 <= indent <= MAX_INDENT:
        raise LimitError(f"tojson is given the indent {indent}, which is not between 0 and {MAX_INDENT}")
    text = json.dumps(
        checked(value), ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if len(text) > MAX_SIZE:
        raise LimitError(f"it produces more than {MAX_SIZE} characters")
    return text


def raise_exception(message: Any) -> None:
    """Refuse the conversation."""
    raise Refusal(str(message)[:MAX_TEXT])


def strftime_now(form: str) -> str:
    """Return the current local time in a format of `datetime.strftime`."""
    return datetime.now().astimezone().strftime(form[:MAX_TEXT])
