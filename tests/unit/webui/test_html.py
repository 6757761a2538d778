"""Every page that the server sends has a policy that forbids inline scripts and frames."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

PAGES = {"/", "/docs/"}


def paths_of(document: dict[str, Any]) -> set[str]:
    """Return the paths of a server: those of its API and of its pages, and one that does not exist."""
    return {re.sub(r"\{.*?\}", "x", path) for path in document["paths"]} | PAGES | {"/docs", "/index.html", "/nowhere"}


async def test_every_page_has_a_strict_policy(serve: Callable[..., Any]) -> None:
    found: dict[str, str] = {}
    async with serve(metrics=True, props=True) as client:
        for path in sorted(paths_of((await client.get("/openapi.json")).json())):
            response = await client.get(path, headers={"Accept": "text/html"})
            if response.headers.get("content-type", "").startswith("text/html"):
                found[path] = response.headers["content-security-policy"]
                assert response.headers["x-content-type-options"] == "nosniff"
    assert found.keys() == PAGES
    for policy in found.values():
        directives = dict(part.split(" ", 1) for part in policy.split("; "))
        assert directives["default-src"] == directives["frame-ancestors"] == directives["base-uri"] == "'none'"
        assert directives["script-src"] == directives["style-src"] == "'self'"
