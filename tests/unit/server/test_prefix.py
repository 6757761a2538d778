"""``--api-prefix``: everything is served below a path."""

from __future__ import annotations

import pytest

from support.api_client import OpenClient
from support.envelope import read_error


@pytest.mark.inventory("O-06")
async def test_operations_are_below_the_prefix_only(opened: OpenClient) -> None:
    async with opened(api_prefix="/llm/v2") as client:
        assert (await client.get("/llm/v2/health")).status_code == 200
        assert (await client.post("/llm/v2/echo", json={"prompt": "a"})).json()["body"]["prompt"] == "a"
        assert (await client.get("/llm/v2/items/7")).json()["path"] == {"item_id": 7}
        for path in ("/health", "/llm", "/llm/v2health", "/llm/v22/health", "/llm/v2/llm/v2/health"):
            error = read_error(await client.get(path), 404, "not_found_error")
            assert f"GET {path} does not exist" in error["message"]
        error = read_error(await client.get("/llm/v2/echo"), 405, "method_not_allowed_error")
        assert error["message"] == "GET is not allowed for /llm/v2/echo; allowed methods: OPTIONS, POST"


async def test_pages_and_the_document_know_the_prefix(opened: OpenClient) -> None:
    async with opened(api_prefix="/llm") as client:
        page = await client.get("/llm/docs", follow_redirects=True)
        assert page.status_code == 200
        assert 'href="../openapi.json"' in page.text
        assert "http://127.0.0.1:8080/llm/echo" in page.text
        assert (await client.get("/llm/openapi.json")).json()["servers"] == [{"url": "/llm"}]
        assert (await client.get("/llm/")).status_code == 200
        moved = await client.get("/llm")
        assert (moved.status_code, moved.headers["location"]) == (307, "/llm/")
        assert (await client.get("/completion.js")).status_code == 404
        assert (await client.get("/llm/completion.js")).status_code == 200


async def test_keys_and_cors_work_below_the_prefix(opened: OpenClient) -> None:
    async with opened(api_prefix="/llm", api_key=("one",)) as client:
        assert (await client.post("/llm/echo", json={})).status_code == 401
        key = {"authorization": "Bearer one", "origin": "http://localhost"}
        response = await client.post("/llm/echo", json={"prompt": "a"}, headers=key)
        assert response.headers["access-control-allow-origin"] == "http://localhost"
