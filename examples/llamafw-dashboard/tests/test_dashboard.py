"""The page, its files, and what it asks the server for."""

import re
from typing import Any

from llamafw.testing.conformance import PluginConformance


async def test_the_page_and_its_files_are_served_without_a_key(serve: Any) -> None:
    async with serve(api_key=("secret",)) as client:
        page = await client.get("/dashboard")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/dashboard/none.js")).status_code == 404
        assert (await client.post("/dashboard", json={})).status_code == 405
        assert (await client.get("/dashboard/../llamafw_dashboard/__init__.py")).status_code == 404
        assert (await client.get("/slots")).status_code == 401  # the API asks for one as ever


async def test_the_server_says_what_the_page_shows(serve: Any) -> None:
    async with serve(slots=True) as client:
        script = (await client.get("/dashboard/page.js")).text
        await client.post("/completion", json={"prompt": "Hello", "n_predict": 3, "ignore_eos": True})
        slots = (await client.get("/slots")).json()
        used = set(re.findall(r"slot\.(\w+)", script))
        assert used >= {"id", "state", "n_past"}
        assert used <= set(slots[0])
        assert any(slot["next_token"]["n_decoded"] == 3 for slot in slots)


class TestPlugin(PluginConformance):
    name = "llamafw-dashboard"
