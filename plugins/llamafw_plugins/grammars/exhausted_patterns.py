"""Removes ``patternProperties`` that only match names in ``properties``: no other property can have such a name.

llguidance would allow the comma before such a property, after which nothing could follow.
"""

from __future__ import annotations

from typing import Any

import orjson
from llguidance import LLMatcher, LLTokenizer

_bytes = LLTokenizer("byte")  # each byte is a token


def apply_exhausted(schema: dict[str, Any]) -> None:
    """Move the schemas of exhausted patterns to the properties that match; ``schema`` is in llguidance's form."""
    named, patterns = schema.get("properties"), schema.get("patternProperties")
    if not named or not patterns:
        return
    kept, properties = dict(patterns), dict(named)
    for pattern, value in patterns.items():
        if not _is_exhausted(pattern, list(named)):
            continue
        del kept[pattern]
        for name in named:
            if _matches(pattern, name):
                properties[name] = {"allOf": [properties[name], value]}
    schema.update(properties=properties, patternProperties=kept)
    if not kept:
        del schema["patternProperties"]


def _is_exhausted(pattern: str, names: list[str]) -> bool:
    """Return whether a pattern matches no text but some of the names."""
    literals = " | ".join(orjson.dumps(name).decode() for name in names)
    matcher = _matcher(f"{_token(pattern)} & ~({literals})")
    allows_token = any(matcher.compute_bitmask()) and not matcher.is_error()
    return not (allows_token or matcher.is_accepting())


def _matches(pattern: str, name: str) -> bool:
    matcher, text = _matcher(_token(pattern)), list(name.encode())
    return matcher.try_consume_tokens(text) == len(text) and bool(matcher.is_accepting())


def _token(pattern: str) -> str:
    return "/" + pattern.removeprefix("^(?:").removesuffix(")$").replace("/", r"\/") + "/s"


def _matcher(expression: str) -> LLMatcher:
    return LLMatcher(_bytes, LLMatcher.grammar_from_lark(f"start: TEXT\nTEXT: {expression}\n"), log_level=0)
