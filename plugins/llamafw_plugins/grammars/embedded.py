"""JSON Schemas within Lark, as llguidance writes them (``%json {…}``), held to what all schemas are held to."""

from __future__ import annotations

import re
from json import JSONDecodeError, JSONDecoder

import orjson

from llamafw_plugins.grammars import json_schema
from llamafw_plugins.grammars.places import SchemaError

_PARTS = re.compile(r'"(?:\\.|[^"\\\n])*"|(?://|#)[^\n]*|/(?:\\.|[^/\\\n])+/|(%json\b\s*)', re.DOTALL)
"""What may contain ``%json`` as text, or ``%json`` itself: strings, comments, regular expressions."""


def normalised(lark: str) -> str:
    """Return the grammar with its schemas as llguidance enforces them in full.

    Raises
    ------
    SchemaError
        What follows ``%json`` is no JSON, or cannot be enforced.
    """
    written, at = [], 0
    while found := _PARTS.search(lark, at):
        written.append(lark[at : found.end()])
        at = found.end()
        if found[1] is None:
            continue
        try:
            schema, at = JSONDecoder().raw_decode(lark, at)
        except (JSONDecodeError, RecursionError):
            raise SchemaError("what follows %json is no JSON, or nested too deeply", ()) from None
        try:
            schema = {**json_schema.normalised(schema), "x-guidance": json_schema.OPTIONS}
        except SchemaError as error:  # whose place is none of the request's
            raise SchemaError(str(error), ()) from None
        written.append(orjson.dumps(schema).decode())
    return "".join(written) + lark[at:]
