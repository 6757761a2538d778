"""Read the grammar of a request from the fields ``grammar``, ``json_schema`` and ``response_format``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from llamafw import GrammarSource, RequestError


def read_grammar(body: Mapping[str, Any], default: GrammarSource | None) -> GrammarSource | None:
    """Return the grammar that constrains the answer to a validated request, or None.

    Parameters
    ----------
    default : GrammarSource, optional
        The server's own grammar, for requests that set none of the fields.

    Raises
    ------
    RequestError
        Two of the fields have a grammar.
    """
    sources = [source for source in (_gbnf(body), _schema(body), _response_format(body)) if source is not None]
    if len(sources) > 1:
        first, second = (source.field.partition(".")[0] for source in sources[:2])
        raise RequestError(f'either "{first}" or "{second}" can be specified, but not both', param=second)
    if sources:
        return _with_white_space(sources[0]) if body.get("whitespace") == "free" else sources[0]
    return None if body.get("response_format") else default  # {"type": "text"} switches the default off


def _with_white_space(source: GrammarSource) -> GrammarSource:
    """Return a JSON Schema that allows line breaks and indentation; other grammars are not changed."""
    schema = orjson.loads(source.text) if source.kind == "json_schema" else None
    if not isinstance(schema, dict):
        return source
    return replace(source, text=orjson.dumps({**schema, "x-whitespace": "free"}).decode())


def _gbnf(body: Mapping[str, Any]) -> GrammarSource | None:
    text = body.get("grammar")
    return GrammarSource("gbnf", text) if text else None


def _schema(body: Mapping[str, Any]) -> GrammarSource | None:
    schema = body.get("json_schema")
    return None if schema is None else GrammarSource("json_schema", orjson.dumps(schema).decode(), "json_schema")


def _response_format(body: Mapping[str, Any]) -> GrammarSource | None:
    """Read ``response_format``.

    Its schema is in ``json_schema.schema`` or in ``schema``, or is missing.
    """
    value = body.get("response_format")
    if not value or value["type"] == "text":
        return None

    schema, field = value.get("schema"), "response_format.schema"
    wrapper = value.get("json_schema")
    if value["type"] == "json_schema" and wrapper is not None:
        schema, field = wrapper.get("schema", schema), "response_format.json_schema.schema"
    if schema is None and value["type"] == "json_schema":
        message = "response_format of the type json_schema needs a schema in json_schema.schema"
        raise RequestError(message, param="response_format.json_schema")
    return GrammarSource("json_schema", orjson.dumps({"type": "object"} if schema is None else schema).decode(), field)
