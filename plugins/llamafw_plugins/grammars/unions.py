"""Rewrites unions with a ``discriminator`` so that every branch requires the property in which the branches differ.

Pydantic leaves that property out of ``required`` if it has a default, but OpenAPI demands it. Without it, a value might
be valid against several branches.
"""

from __future__ import annotations

from typing import Any

from llamafw_plugins.grammars.references import NOWHERE, find_anchors, target_path
from llamafw_plugins.grammars.schema_paths import get_at

_VALUES = ("const", "enum", "default", "examples", "example")  # keywords with values instead of schemas


def require_discriminators(root: Any) -> Any:
    """Return a schema in which the branches of unions require the property that ``discriminator`` names.

    Parameters
    ----------
    root : object
        Any JSON value; parts that are not as expected are left as they are.
    """
    try:
        anchors = find_anchors(root)
    except (AttributeError, TypeError):  # not a valid schema, which is reported later
        anchors = {}
    return _rewrite(root, root, anchors, 0)


def _rewrite(value: Any, root: Any, anchors: Any, depth: int) -> Any:
    if depth > 256:  # deeper schemas are refused later
        return value
    if isinstance(value, list):
        return [_rewrite(item, root, anchors, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value

    rewritten = {
        key: item if key in _VALUES else _rewrite(item, root, anchors, depth + 1) for key, item in value.items()
    }
    discriminator, branches = value.get("discriminator"), rewritten.get("oneOf")
    name = discriminator.get("propertyName") if isinstance(discriminator, dict) else None
    if isinstance(name, str) and isinstance(branches, list):
        rewritten["oneOf"] = [_requiring(branch, name, root, anchors) for branch in branches]
    return rewritten


def _requiring(branch: Any, name: str, root: Any, anchors: Any) -> Any:
    """Return a branch that requires a property, if the branch has one of this name."""
    target = branch
    if isinstance(branch, dict) and isinstance(branch.get("$ref"), str):
        path = target_path(branch["$ref"], anchors)
        try:
            target = None if path == NOWHERE else get_at(root, path)
        except (KeyError, IndexError, TypeError, ValueError):
            target = None  # reported later
    if not isinstance(target, dict) or name not in target.get("properties", ()):
        return branch
    required = target.get("required", [])
    if not isinstance(required, list) or name in required:
        return branch
    return {key: item for key, item in target.items() if key not in ("$anchor", "$id")} | {
        "required": [*required, name]
    }
