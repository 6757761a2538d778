"""Describes in words why jsonschema-rs finds a value, or a schema itself, invalid."""

from __future__ import annotations

import json
from typing import Any


def describe_schema_error(error: Exception) -> str:
    """Return a sentence that names the invalid value and says what is valid.

    If the value matches none of several alternatives, the sentence says what the closest ones expect: those in which
    the invalid part lies deepest.

    Parameters
    ----------
    error : jsonschema_rs.ValidationError, ValueError or TypeError
        What jsonschema-rs has raised or yielded. It raises the last two if it cannot read the value or the schema.
    """
    kind: Any = getattr(error, "kind", None)
    causes: list[Any] = [cause for alternative in getattr(kind, "context", ()) for cause in alternative]
    if causes:
        depth = max(len(cause.instance_path) for cause in causes)
        closest = [cause for cause in causes if len(cause.instance_path) == depth]
        return ", and ".join(dict.fromkeys(map(describe_schema_error, closest)))

    if kind is not None and kind.name == "enum":  # jsonschema-rs names only two of many
        return f"{_text(getattr(error, 'instance', None))} is not one of {', '.join(map(_text, kind.options))}"
    return str(getattr(error, "message", error))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
