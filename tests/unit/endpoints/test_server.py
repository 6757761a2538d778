"""GET /health, /v1/models, /props and /openapi.json."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llamafw import Call, Unavailable
from llamafw_plugins.endpoints.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")
Client = Any


@pytest.mark.inventory("E-001", "R-10", "T-13")
@pytest.mark.parametrize("path", ["/health", "/v1/health"])
async def test_health(client: Client, path: str) -> None:
    assert (await client.get(path)).json() == {"status": "ok"}


async def test_health_of_a_failed_engine() -> None:
    app: Any = SimpleNamespace(loaded=SimpleNamespace(engine=SimpleNamespace(failed=True)))
    with pytest.raises(Unavailable, match="must be restarted"):
        await Server(app).health(Call(None, {}, {}, None))  # type: ignore[arg-type]  # it looks at no request


@pytest.mark.inventory("E-180", "R-10")
@pytest.mark.parametrize("path", ["/models", "/v1/models"])
async def test_models(client: Client, path: str) -> None:
    found = (await client.get(path)).json()
    assert found["object"] == "list"
    assert (found["data"][0]["id"], found["data"][0]["owned_by"]) == ("toy", "llamafw")
    assert found["data"][0]["meta"] == {
        "vocab_type": 2,
        "n_vocab": 264,
        "n_ctx_train": 64,
        "n_embd": 8,
        "n_params": 12,
        "size": 48,
    }


@pytest.mark.inventory("E-170", "R-11")
async def test_props(client: Client) -> None:
    found = (await client.get("/props")).json()
    assert (found["total_slots"], found["model_alias"], found["bos_token"], found["eos_token"]) == (2, "toy", "", "")
    assert "message.role[0]" in found["chat_template"]
    settings = found["default_generation_settings"]
    assert (settings["n_ctx"], settings["temperature"], settings["params"]["temperature"]) == (64, 0.8, 0.8)


async def test_openapi(client: Client) -> None:
    response = await client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    properties = document["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert {"temperature", "top_k", "repeat_penalty", "n_predict", "messages"} <= set(properties)
    assert "top_p" in properties["samplers"]["items"]["enum"]


@pytest.mark.inventory("H-05", "H-07", "R-02", "R-10", "D-08", "F-13")
@pytest.mark.parametrize(
    ("method", "path", "public"),
    [
        ("GET", "/health", True),
        ("GET", "/v1/health", True),
        ("GET", "/models", True),
        ("GET", "/v1/models", True),
        ("GET", "/openapi.json", True),
        ("GET", "/props", False),
        ("POST", "/completion", False),
        ("POST", "/completions", False),
        ("POST", "/v1/completions", False),
        ("POST", "/v1/chat/completions", False),
        ("POST", "/chat/completions", False),
        ("POST", "/tokenize", False),
        ("POST", "/detokenize", False),
        ("POST", "/apply-template", False),
    ],
)
async def test_what_needs_a_key(opened: Any, method: str, path: str, public: bool) -> None:
    async with opened(api_key=("secret",)) as client:
        without = await client.request(method, path, json={} if method == "POST" else None)
        assert without.status_code == (200 if public else 401)
        with_key = await client.request(
            method, path, headers={"X-Api-Key": "secret"}, json={} if method == "POST" else None
        )
        assert with_key.status_code == (400 if method == "POST" else 200)
