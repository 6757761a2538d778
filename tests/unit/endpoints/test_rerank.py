"""POST /rerank: what is wrong is said before what cannot be done."""
from __future__ import annotations

from typing import Any

import pytest

GOOD: dict[str, Any] = {"query": "q", "documents": ["a", "b"], "top_n": 1}


@pytest.mark.inventory("E-160", "R-19", "T-16")
@pytest.mark.parametrize("path", ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking"])
async def test_wrong_requests(opened: Any, path: str) -> None:
    async with opened(reranking=True) as client:
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"query": None}, "query"), ({"query": 5}, "query"), ({"documents": []}, "documents"),
            ({"documents": "a"}, "documents"), ({"documents": [5]}, "documents.0"), ({"documents": None}, "documents"),
            ({"texts": ["a"]}, "documents"), ({"top_n": 0}, "top_n"),
        ]  # fmt: skip
        for change, param in wrong:
            error = (await client.post(path, json={**GOOD, **change})).json()["error"]
            assert (error["code"], error["param"]) == (400, param), error


@pytest.mark.inventory("E-163", "C-107", "D-14", "R-06", "B-03")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "This server does not support reranking. Start it with `--reranking`"),
        ({"embedding": True, "pooling": "mean"}, "This server does not support reranking. Start it with `--reranking`"),
        ({"reranking": True}, "toy cannot rerank: it has no rank head"),
        ({"embedding": True, "pooling": "rank"}, "toy cannot rerank: it has no rank head"),
    ],
)
async def test_what_cannot_be_done(opened: Any, settings: dict[str, Any], message: str) -> None:
    async with opened(**settings) as client:
        error = (await client.post("/rerank", json=GOOD)).json()["error"]
        assert (error["code"], error["type"], error["message"]) == (501, "not_supported_error", message)
