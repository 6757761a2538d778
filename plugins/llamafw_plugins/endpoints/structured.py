"""What a request wants its answer held to: the fields ``grammar``, ``json_schema`` and ``response_format``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llamafw import GrammarSource, RequestError


def read_grammar(body: Mapping[str, Any], default: GrammarSource | None) -> GrammarSource | None:
    """Return the grammar of a validated request, or the server's own; None: the answer may be anything.

    Raises
    ------
    RequestError
        Two of the fields ask for something.
    """
    sources = [source for source in (_gbnf(body), _schema(body), _format(body)) if source is not None]
    if len(sources) > 1:
        first, second = (source.field.partition(".")[0] for source in sources[:2])
        raise RequestError(f'either "{first}" or "{second}" can be specified, but not both', param=second)
    if sources:
        return sources[0]
    return None if body.get("response_format") else default  # {"type": "text"} is a wish, too


def _gbnf(body: Mapping[str, Any]) -> GrammarSource | None:
    text = body.get("grammar")
    return GrammarSource("gbnf", text) if text else None


def _schema(body: Mapping[str, Any]) -> GrammarSource | None:
    schema = body.get("json_schema")
    return None if schema is None else GrammarSource("json_schema", orjson.dumps(schema).decode(), "json_schema")


def _format(body: Mapping[str, Any]) -> GrammarSource | None:
    """Read ``response_format`` in its three forms: the schema beside the type, within ``json_schema``, or none."""
    wanted = body.get("response_format")
    if not wanted or wanted["type"] == "text":
        return None
    schema, field = wanted.get("schema"), "response_format.schema"
    within = wanted.get("json_schema")
    if wanted["type"] == "json_schema" and within is not None:
        schema, field = within.get("schema", schema), "response_format.json_schema.schema"
    if schema is None and wanted["type"] == "json_schema":
        raise RequestError("the response format has no schema", param="response_format.json_schema")
    return GrammarSource("json_schema", orjson.dumps({"type": "object"} if schema is None else schema).decode(), field)
