"""Tests of the page, its files and the fields that its script reads from the API."""

import re
from typing import Any

from llamafw.testing.conformance import PluginConformance


async def test_page_and_files_need_no_key(serve: Any) -> None:
    async with serve(api_key=("secret",)) as client:
        page = await client.get("/dashboard")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]

        paths = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(paths) == 2
        for path in paths:
            assert (await client.get(path)).status_code == 200

        assert (await client.get("/dashboard/none.js")).status_code == 404
        assert (await client.post("/dashboard", json={})).status_code == 405
        assert (await client.get("/dashboard/../llamafw_dashboard/__init__.py")).status_code == 404
        assert (await client.get("/slots")).status_code == 401  # the API still needs a key


async def test_slots_have_all_fields_that_the_script_reads(serve: Any) -> None:
    async with serve(slots=True) as client:
        script = (await client.get("/dashboard/page.js")).text
        await client.post("/completion", json={"prompt": "Hello", "n_predict": 3, "ignore_eos": True})
        slots = (await client.get("/slots")).json()
        used = set(re.findall(r"slot\.(\w+)", script))
        assert used >= {"id", "state", "n_past"}
        assert used <= set(slots[0])
        assert any(slot["next_token"][0]["n_decoded"] == 3 for slot in slots)


class TestPlugin(PluginConformance):
    name = "llamafw-dashboard"
