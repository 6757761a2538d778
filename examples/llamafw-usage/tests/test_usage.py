"""Tests of the counts per user, through endpoints of both APIs, and of the command."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from llamafw_usage.command import main

from llamafw.testing.conformance import EndpointConformance, PluginConformance

BODY = {"prompt": "Hello", "ignore_eos": True, "seed": 1, "n_predict": 5, "cache_prompt": False}
ALICE, BOB = {"Authorization": "Bearer alice"}, {"X-Api-Key": "bob"}


async def test_tokens_are_counted_by_key(serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "usage.db"
    async with serve(extra={"usage_db": str(path)}, api_key=("alice", "bob")) as client:
        tokens = len((await client.post("/tokenize", json={"content": "Hello"}, headers=BOB)).json()["tokens"])
        await asyncio.gather(*(client.post("/completion", json=BODY, headers=user) for user in (ALICE, ALICE, BOB)))
        await client.post("/v1/completions", json={**BODY, "prompt": ["Hello", "Hello"], "stream": True}, headers=BOB)
        assert (await client.post("/completion", json=BODY)).status_code == 401

        rows = (await client.get("/usage", headers=BOB)).json()["data"]
        found = {
            row["user"]: [row[name] for name in ("requests", "prompt_tokens", "completion_tokens")] for row in rows
        }
        assert sorted(found.values()) == [[2, 2 * tokens, 10], [3, 3 * tokens, 15]]
        assert all(user.startswith("key-") for user in found)
        assert (await client.get("/usage?since=2999-01-01", headers=BOB)).json()["data"] == []
        assert (await client.get("/usage?since=yesterday", headers=BOB)).status_code == 400

        assert main([str(path)]) == 0  # while the server is running
        assert capsys.readouterr().out.splitlines()[0].split() == list(rows[0])

    assert main([str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == rows


def test_command_reports_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.db")]) == 1
    assert "none.db" in capsys.readouterr().err


class TestUsage(EndpointConformance):
    name = "llamafw-usage"

    def settings(self, folder: Path) -> dict[str, Any]:
        return {"extra": {"usage_db": str(folder / "usage.db")}}


class TestPlugin(PluginConformance):
    name = "llamafw-usage"
