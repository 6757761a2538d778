"""Check the parameters of tools whose calls are enforced, so that an error names the keyword at fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafw import RequestError
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.grammars.json_schema import to_llguidance
from llamafw_plugins.grammars.schema_paths import SchemaError


def check_tool_schemas(tools: Sequence[JSON], offered: Sequence[Any]) -> None:
    """Check that the parameters of tools can be enforced.

    Call it on a worker thread, because schemas may be large.

    Parameters
    ----------
    tools : sequence of dict
        All tools of the request, in OpenAI's format.
    offered : sequence of dict
        Those of them whose calls are enforced.

    Raises
    ------
    RequestError
        A part of the parameters is invalid or cannot be enforced; ``param`` is its path.
    """
    for i, tool in enumerate(tools):
        parameters = tool["function"].get("parameters")
        if tool not in offered or not parameters:
            continue
        try:
            to_llguidance(parameters)
        except SchemaError as error:
            path = ("tools", str(i), "function", "parameters", *error.path)
            raise RequestError(str(error), param=".".join(path)) from None
