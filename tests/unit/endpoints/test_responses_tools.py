"""Tools of the Responses API that are not plain functions: namespaces, and tools that OpenAI's servers run."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from unit.endpoints.conftest import Open
from unit.endpoints.test_responses import CLOCK, PATH, TEMPLATE, WEATHER, create, prompt_of, refused
from unit.endpoints.test_tools import answering

WEB_SEARCH: dict[str, Any] = {"type": "web_search", "external_web_access": False}
READ: dict[str, Any] = {"type": "function", "name": "read", "parameters": {"type": "object", "properties": {}}}
FILES: dict[str, Any] = {"type": "namespace", "name": "files", "description": "Files.", "tools": [READ]}
INNER = "tools.1.tools.0"
NOT_ENFORCEABLE: dict[str, Any] = {
    "strict": True,
    "parameters": {"type": "object", "properties": {"a": {"not": {"type": "string"}}}},
}
pytestmark = pytest.mark.inventory("T-03")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "namespace", "name": "files"}]}, "tools.0.tools"),
        ({"tools": [FILES, {"type": "function", "name": "files__read"}]}, "tools.1.name"),
        ({"tools": [WEB_SEARCH, FILES | {"tools": [READ, READ]}]}, "tools.1.tools.1.name"),
        ({"tools": [WEB_SEARCH, CLOCK | NOT_ENFORCEABLE]}, "tools.1.parameters.properties.a.not"),
        ({"tools": [WEB_SEARCH, FILES | {"tools": [READ | NOT_ENFORCEABLE]}]}, f"{INNER}.parameters.properties.a.not"),
    ],
)
async def test_invalid_tools_are_400(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    assert (await refused(client, **fields))[0] == param


async def test_other_tools_are_400_with_strict_fields(opened: Open) -> None:
    async with opened(strict_fields=True) as client:
        assert (await refused(client, tools=[CLOCK, WEB_SEARCH]))[0] == "tools.1.type"


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_that_are_not_functions_are_left_out_and_named(opened: Open, stream: bool) -> None:
    custom = {"type": "custom", "name": "apply_patch", "format": {"type": "text"}}
    tools = [WEB_SEARCH, WEATHER, {"type": "image_generation"}, FILES | {"tools": [custom, READ]}]
    body = {"input": "Hi", "tools": tools, "stream": stream}
    async with opened(scores=answering("Hello"), template=TEMPLATE, n_ctx=512) as client:
        http = await client.post(PATH, json=body)
        response = await create(client, **body)
    assert http.headers["x-llamafw-ignored-fields"] == "tools.0, tools.2, tools.3.tools.0"
    assert [tool["name"] for tool in response["tools"]] == ["weather", "files"]
    assert [tool["name"] for tool in response["tools"][1]["tools"]] == ["read"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("namespace", ["files", "mcp__files__"])
async def test_functions_in_namespaces_are_called_with_their_namespace(
    opened: Open, namespace: str, stream: bool
) -> None:
    name = "files__read" if namespace == "files" else "mcp__files__read"
    text = f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>'
    tools = [READ, FILES | {"name": namespace}]
    async with opened(scores=answering(text), template=TEMPLATE, n_ctx=2048, slots=True) as client:
        first = await create(client, tools=tools, stream=stream)
        (call,) = first["output"]
        assert (call["namespace"], call["name"]) == (namespace, "read")
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "text"}
        end = f";a:{name}({{}});t:text;a:"

        question = {"role": "user", "content": "q"}
        assert (await prompt_of(client, input=[question, call, output], tools=tools)).endswith(f"u:q{end}")
        prompt = await prompt_of(client, previous_response_id=first["id"], input=[output], tools=tools)
        assert prompt.endswith(f"u:Hi{end}")
        assert [prompt.count(f'"name": "{known}"') for known in ("read", name)] == [1, 1]
