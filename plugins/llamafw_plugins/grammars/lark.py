"""Rewrites the JSON Schemas in Lark grammars (``%json {…}``), which are then enforced as strictly as other schemas."""

from __future__ import annotations

import re
from json import JSONDecodeError, JSONDecoder

import orjson

from llamafw_plugins.grammars import json_schema
from llamafw_plugins.grammars.schema_paths import SchemaError

_TOKENS = re.compile(r'"(?:\\.|[^"\\\n])*"|(?://|#)[^\n]*|/(?:\\.|[^/\\\n])+/|(%json\b\s*)', re.DOTALL)
"""``%json``, and the tokens that may contain it as text: strings, comments and regular expressions."""


def to_llguidance(source: str) -> str:
    """Return the grammar with its JSON Schemas rewritten by `json_schema.to_llguidance`.

    Raises
    ------
    SchemaError
        The text after a ``%json`` is not valid JSON, or the schema cannot be enforced.
    """
    output, position = [], 0
    while match := _TOKENS.search(source, position):
        output.append(source[position : match.end()])
        position = match.end()
        if match[1] is None:
            continue

        try:
            schema, position = JSONDecoder().raw_decode(source, position)
        except (JSONDecodeError, RecursionError):
            raise SchemaError("the schema after %json is not valid JSON or is nested too deeply", ()) from None
        try:
            options = json_schema.options_of(schema)
            schema = {**json_schema.to_llguidance(schema), "x-guidance": options}
        except SchemaError as error:  # the path is not one in the request, so only the message has it
            place = f" (at {'.'.join(error.path):.200} in the schema)" if error.path else ""
            raise SchemaError(f"{error}{place}", ()) from None
        output.append(orjson.dumps(schema).decode())
    return "".join(output) + source[position:]
