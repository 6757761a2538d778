"""The request fields that ``/set`` changes: those of the server's API document, with the options of all samplers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llamafw.errors import LlamafwError, did_you_mean
from llamafw.options import BOOLEANS
from llamafw.server.schema import Schemas
from llamafw.server.violations import find_violation
from llamafw.spec import PLUGIN, as_json_schema
from llamafw.spec.operations import SAMPLER

SCHEMA = "ChatCompletionRequest"
SET_BY_CHAT = {
    "add_generation_prompt",
    "continue_final_message",
    "functions",
    "messages",
    "model",
    "n",
    "parallel_tool_calls",
    "return_progress",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
}
"""Fields that the chat sets itself, or that have no use in the terminal."""

FREQUENT = ("temperature", "max_tokens", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "stop")
"""The fields that are listed first."""


class OptionError(LlamafwError):
    """An option does not exist, or does not have this value.

    The message names it.
    """


class Fields:
    """The fields of chat requests that users may set.

    Parameters
    ----------
    document : mapping, optional
        The server's API document. Without one, as with servers of other projects, every name and value is accepted.
    """

    def __init__(self, document: Mapping[str, Any] | None) -> None:
        self._schemas: Schemas | None = None
        self._fields: Mapping[str, Mapping[str, Any]] = {}
        try:
            fields = (document or {})["components"]["schemas"][SCHEMA]["properties"]
        except (KeyError, TypeError):
            return
        self._schemas = Schemas(document or {})
        self._fields = {name: field for name, field in fields.items() if name not in SET_BY_CHAT}
        self.has_progress = "return_progress" in fields

    has_progress = False
    """Whether the server can report how much of a prompt it has read."""

    @property
    def names(self) -> list[str]:
        """All names: the frequent ones, then options of samplers and plugins, then the others."""
        frequent = [name for name in FREQUENT if name in self._fields]
        rest = [name for name in self._fields if name not in frequent]
        marked = [name for name in rest if {SAMPLER, PLUGIN} & {*self._fields[name]}]
        return [*frequent, *marked, *(name for name in rest if name not in marked)]

    def default(self, name: str) -> Any:
        """Return the server's default of a field, or None."""
        return self._fields.get(name, {}).get("default")

    def describe(self, name: str) -> str:
        """Return the description of a field in one paragraph; raise OptionError."""
        self._check_name(name)
        return " ".join(str(self._fields.get(name, {}).get("description", "")).split())

    def parse(self, name: str, text: str) -> Any:
        """Return the value that a text stands for: JSON, or the text itself where that is a valid value.

        Raises
        ------
        OptionError
            The field does not exist, or the text does not stand for a valid value.
        """
        self._check_name(name)
        values = _readings(text)
        if self._schemas is None:
            return values[0]
        schema = as_json_schema(self._fields[name])
        is_valid = self._schemas.validator(schema).is_valid
        for value in values:
            if is_valid(value):
                return value
        whole = {"type": "object", "properties": {name: schema}}
        raise OptionError(find_violation(whole, {name: values[0]}, self._schemas).message)

    def _check_name(self, name: str) -> None:
        if self._schemas is None:
            if not re.fullmatch(r"\w+", name):
                raise OptionError(f"{name!r} is not the name of an option")
            return
        if name in SET_BY_CHAT:
            raise OptionError(f"the option {name} cannot be set here")
        if name not in self._fields:
            hint = did_you_mean(name, self._fields) or "; /set lists the options"
            raise OptionError(f"unknown option {name!r}{hint}")


def _readings(text: str) -> list[Any]:
    """Return the values that a text can stand for, the likeliest first."""
    readings: list[Any] = []
    try:
        readings.append(json.loads(text))
    except ValueError:
        if text.lower() in BOOLEANS:
            readings.append(BOOLEANS[text.lower()])
    if text.lower() in BOOLEANS and text.isalpha() and BOOLEANS[text.lower()] not in readings:
        readings.append(BOOLEANS[text.lower()])
    return [*readings, text]
