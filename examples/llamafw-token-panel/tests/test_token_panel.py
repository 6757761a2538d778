"""Tests of the operation, and of the fields that the module reads from the API.

The repository's tests also use the panel in a browser.
"""

from typing import Any

from llamafw.testing.conformance import EndpointConformance


async def test_module_needs_no_key_and_is_named_in_the_document(serve: Any) -> None:
    async with serve(api_key=("secret",)) as client:
        response = await client.get("/token-panel.js")
        assert response.headers["content-type"] == "text/javascript; charset=utf-8"
        assert "export default function (page)" in response.text
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert paths["/token-panel.js"]["get"]["x-llamafw-webui-module"] is True


async def test_tokens_have_the_members_that_the_module_reads(serve: Any) -> None:
    async with serve() as client:
        tokens = (await client.post("/tokenize", json={"content": "the end", "with_pieces": True})).json()["tokens"]
        assert "".join(token["piece"] for token in tokens).strip() == "the end"
        assert all(set(token) == {"id", "piece"} for token in tokens)


class TestPlugin(EndpointConformance):
    name = "llamafw-token-panel"
