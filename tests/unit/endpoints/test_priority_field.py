"""The field `priority`, and the priorities of API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unit.endpoints.conftest import Open

REQUESTS: dict[str, dict[str, Any]] = {
    "/completion": {"prompt": "ab", "n_predict": 1},
    "/v1/completions": {"prompt": "ab", "max_tokens": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 1},
    "/v1/messages": {"model": "any", "messages": [{"role": "user", "content": "ab"}], "max_tokens": 1},
    "/v1/responses": {"input": "ab", "max_output_tokens": 1},
    "/embedding": {"content": "ab"},
    "/v1/embeddings": {"input": "ab"},
}


@pytest.mark.parametrize("path", REQUESTS)
async def test_priorities_hold_in_every_operation(opened: Open, tmp_path: Path, path: str) -> None:
    (keys := tmp_path / "keys").write_text("low priority=5\nhigh priority=-20\n")
    async with opened(api_key_file=str(keys)) as client:
        for key, priority, status in (("low", 5, 200), ("low", 4, 400), ("high", -20, 200), ("high", -21, 400)):
            headers = {"Authorization": f"Bearer {key}"}
            response = await client.post(path, json={**REQUESTS[path], "priority": priority}, headers=headers)
            assert response.status_code == status, response.text
            assert status == 200 or "priority" in response.text


async def test_generation_settings_show_the_priority(opened: Open, tmp_path: Path) -> None:
    (keys := tmp_path / "keys").write_text("low priority=5\n")
    async with opened(api_key_file=str(keys)) as client:
        for given, shown in (({}, 5), ({"priority": 7}, 7)):
            body = {"prompt": "a", "n_predict": 1, **given}
            response = await client.post("/completion", json=body, headers={"X-Api-Key": "low"})
            assert response.json()["generation_settings"]["priority"] == shown
