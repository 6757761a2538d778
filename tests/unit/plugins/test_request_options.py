"""Request fields and operations of plugins: in the API document, in error messages, and in conflict with others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llamafw import LlamafwError
from llamafw.cli.main import find_command
from llamafw.plugins import Plugins
from llamafw.server.app import build_app
from llamafw.settings import Settings
from support import api
from support.distributions import Site

pytestmark = pytest.mark.slow

SAMPLER = """
from llamafw import hookimpl

class S:
    options = {"heat": {"type": "number", "minimum": 0, "maximum": 2, "default": 0, "description": "How hot."}}
    truncates = False
    @classmethod
    def create(cls, options, context): return None

@hookimpl
def register_samplers(register): register("hot", S)

@hookimpl
def register_fields(register): register("words", {"type": "array", "maxItems": 2, "items": {"type": "string"}})

@hookimpl
def prepare_request(body): body.get("words")
"""
OPERATION = """
from llamafw import hookimpl

PARAMETERS = [{"name": "n", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 3}}]
BODY = {"required": True, "content": {"application/json": {"schema": {"type": "object", "required": ["depth"],
    "properties": {"depth": {"type": "integer", "minimum": 1, "maximum": 5, "description": "How deep."}}}}}}
OK = {"200": {"description": "ok", "content": {"application/json": {"schema": {"type": "object"}}}},
      "400": {"$ref": "#/components/responses/BadRequest"}}

@hookimpl
def extend_openapi():
    return {"paths": {"/dig": {"post": {"operationId": "dig", "parameters": PARAMETERS, "requestBody": BODY,
                                        "responses": OK}}}}

@hookimpl
def register_endpoints(register, app):
    async def dig(call): return call.body
    register("dig", dig)
"""


@pytest.mark.parametrize(
    ("path", "body", "param", "plugin", "message"),
    [
        ("/completion", {"heat": 3}, "heat", "llamafw-hot:hot", "heat must be at most 2"),
        ("/v1/chat/completions", {"heat": "x"}, "heat", "llamafw-hot:hot", "heat must be a number"),
        ("/completion", {"words": ["a", 1]}, "words.1", "llamafw-hot:hot", "words.1 must be a string"),
        ("/dig", {"depth": 9}, "depth", "llamafw-dig:dig", "depth must be at most 5"),
        ("/dig", {}, "depth", "llamafw-dig:dig", "depth is required"),
        ("/dig?n=4", {"depth": 1}, "n", "llamafw-dig:dig", "query parameter n must be at most 3"),
        ("/completion", {"top_k": -7.5}, "top_k", None, "top_k must be"),
    ],
)
async def test_invalid_fields_are_400_and_name_the_plugin(
    site: Site, serve: Callable[..., Any], path: str, body: Any, param: str, plugin: str | None, message: str
) -> None:
    site.install("llamafw-hot", SAMPLER)
    site.install("llamafw-dig", OPERATION)
    required = {"prompt": "x", "messages": [{"role": "user", "content": "x"}]} if "/dig" not in path else {}
    async with serve() as client:
        response = await client.post(path, json=required | body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error.get("plugin")) == (400, param, plugin)
    assert error["message"].startswith(message)
    assert error["message"].endswith(f" (plugin {plugin})") is (plugin is not None)


async def test_fields_and_operations_are_in_the_api_document(site: Site, serve: Callable[..., Any]) -> None:
    site.install("llamafw-hot", SAMPLER)
    site.install("llamafw-dig", OPERATION)
    async with serve() as client:
        page = await client.get("/docs/")
        document = (await client.get("/openapi.json")).json()
    assert "/openapi.json" in page.text
    for name in ("CompletionRequest", "ChatCompletionRequest", "TextCompletionRequest", "InfillRequest"):
        text = str(document["components"]["schemas"][name])
        fields = (
            document["components"]["schemas"]["GenerationOptions"]["properties"]
            if "heat" not in text
            else (document["components"]["schemas"][name]["properties"])
        )
        assert fields["heat"]["maximum"] == 2
        assert fields["heat"]["description"] == "How hot. (Added by the plugin `llamafw-hot:hot`.)"
        assert fields["words"]["x-llamafw-plugin"] == "llamafw-hot:hot"
        assert "plugin" not in fields["top_k"]["description"].lower()
    assert document["paths"]["/dig"]["post"]["x-llamafw-plugin"] == "llamafw-dig:dig"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (SAMPLER, SAMPLER, "sampler 'hot' is registered by both llamafw-a:a and llamafw-b:b"),
        (
            SAMPLER,
            SAMPLER.replace('"hot"', '"warm"').replace('"maximum": 2', '"maximum": 3').replace("words", "others"),
            "the field 'heat' has different schemas in sampler 'hot' of plugin llamafw-a:a and "
            "sampler 'warm' of plugin llamafw-b:b",
        ),
        (
            SAMPLER,
            SAMPLER.replace('"hot"', '"warm"'),
            "field 'words' is registered by both llamafw-a:a and llamafw-b:b",
        ),
        (
            SAMPLER,
            SAMPLER.replace('"hot"', '"warm"').replace('"words"', '"heat"'),
            "the field 'heat' is defined by both sampler 'hot' of plugin llamafw-a:a and plugin llamafw-b:b",
        ),
        (OPERATION, OPERATION, "POST /dig is defined by both plugin llamafw-a:a and plugin llamafw-b:b"),
        (
            OPERATION,
            OPERATION.replace("/dig", "/dug"),
            "operationId 'dig' is defined by both plugin llamafw-a:a and plugin llamafw-b:b",
        ),
        (
            OPERATION.replace("/dig", "/dig/{a}"),
            OPERATION.replace("/dig", "/dig/{b}").replace('"dig"', '"dug"'),
            "the path /dig/{b} of plugin llamafw-b:b is the same as the path /dig/{a} of plugin llamafw-a:a",
        ),
        (
            OPERATION,
            OPERATION.split("@hookimpl")[0] + "@hookimpl" + OPERATION.split("@hookimpl")[2],
            "endpoint 'dig' is registered by both llamafw-a:a and llamafw-b:b",
        ),
    ],
)
def test_startup_fails_if_two_plugins_clash(site: Site, first: str, second: str, message: str) -> None:
    site.install("llamafw-a", first)
    site.install("llamafw-b", second)
    with pytest.raises(LlamafwError) as caught:
        build_app(Settings(), Plugins(), api.load)
    assert message in str(caught.value)


def test_a_command_with_a_builtin_name_is_an_error(site: Site) -> None:
    code = "from llamafw import hookimpl\n@hookimpl\ndef register_commands(register): register('{}', print)\n"
    site.install("llamafw-a", code.format("spec"))
    with pytest.raises(LlamafwError, match="plugin llamafw-a:a registers 'spec', which is a command of llamafw itself"):
        find_command("hello")
