"""CORS: which web pages may call the server.

Its own documentation pages need no other host.
"""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from support.api_client import OpenClient


@pytest.mark.inventory("H-02", "H-03", "H-04", "O-05")
@pytest.mark.parametrize(
    ("origins", "origin", "allowed", "credentials"),
    [
        ((), "http://localhost:5173", "http://localhost:5173", None),
        ((), "https://127.0.0.1", "https://127.0.0.1", None),
        ((), "http://[::1]:80", "http://[::1]:80", None),
        ((), "http://localhost.evil.com", None, None),
        ((), "http://evil.com", None, None),
        ((), "null", None, None),
        (("https://a.com/",), "https://a.com", "https://a.com", "true"),
        (("https://a.com",), "http://localhost", None, "true"),
        (("https://a.com", "*"), "https://b.com", "*", None),
        (("localhost",), "http://localhost:5173", "http://localhost:5173", "true"),
        (("localhost",), "https://[::1]:8443", "https://[::1]:8443", "true"),
        (("localhost",), "http://localhost.evil.com", None, "true"),
        (("https://a.com", "localhost"), "http://127.0.0.1:3000", "http://127.0.0.1:3000", "true"),
        (("https://a.com", "localhost"), "https://a.com", "https://a.com", "true"),
        (("https://a.com", "localhost"), "https://b.com", None, "true"),
    ],
)
async def test_origins_are_allowed_or_refused(
    opened: OpenClient, origins: Any, origin: str, allowed: str | None, credentials: str | None
) -> None:
    async with opened(cors_origins=origins, api_key=("one",)) as client:
        for path, status in (("/health", 200), ("/nope", 404), ("/wait", 401)):
            response = await client.get(path, headers={"origin": origin})
            assert response.status_code == status
            assert response.headers.get("access-control-allow-origin") == allowed
            if allowed:
                assert response.headers.get("access-control-allow-credentials") == credentials

        preflight = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type, x-own",
        }
        response = await client.options("/echo", headers=preflight)  # without a key
        assert response.status_code == 200
        if allowed is None:
            assert not [name for name in response.headers if name.startswith("access-control")]
        else:
            assert response.headers["access-control-allow-origin"] == allowed
            assert {"GET", "POST"} <= set(response.headers["access-control-allow-methods"].split(", "))
            assert "x-own" in response.headers["access-control-allow-headers"]


async def test_the_documentation_pages_load_nothing_from_other_hosts(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs", follow_redirects=True)
    assert page.status_code == 200
    links = re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"]*)"', page.text)
    assert links == ["data:,", "page.css", "page.js"]
    for link in links[1:]:
        file = await client.get(f"/docs/{link}")
        assert file.status_code == 200, link
        assert len(file.content) > 100
    assert 'href="../openapi.json"' in page.text
    assert (await client.get("/openapi.json")).json()["openapi"] == "3.0.3"
