"""Reads Python literals, without evaluating code."""

from __future__ import annotations

import ast
import json
from typing import Any

from llamafw_plugins.tool_parsers.cursor import NotACall

_CONSTANTS = {"true": True, "false": False, "null": None}  # models sometimes write JSON


def python_to_json(text: str) -> str:
    """Return a Python literal as JSON; raise NotACall if it is not a literal that JSON has."""
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
        result = json.dumps(value, ensure_ascii=False, allow_nan=False)
        result.encode()  # fails for surrogates, which Python strings may contain
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NotACall from None
    return result


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None):
            return node.value
        case ast.Name() if node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        case ast.List() | ast.Tuple():
            return [_value(item) for item in node.elts]
        case ast.Dict():
            return {str(_value(key)): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    raise ValueError("it is not a literal")
