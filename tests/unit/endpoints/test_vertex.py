"""The routes of Vertex AI's predictions."""

from __future__ import annotations

from typing import Any

import pytest

from llamafw.plugins import Plugins
from llamafw_plugins.vertex import Vertex, format_name
from unit.endpoints.conftest import Open

pytestmark = pytest.mark.slow

GREEDY = {"temperature": 0}
COMPLETION = {"@requestFormat": "completion", "prompt": "a", "n_predict": 2, **GREEDY}
CHAT = {
    "@requestFormat": "chatCompletions",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 2,
    **GREEDY,
}


@pytest.fixture
def vertex(monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """Plugins of a server that runs on Vertex AI."""
    monkeypatch.setenv("AIP_MODE", "PREDICTION")
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "v1/models/m:predict")
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/ping")
    return Plugins()


@pytest.mark.inventory("T-14")
async def test_each_instance_is_a_request(opened: Open, vertex: Plugins) -> None:
    instances = [COMPLETION, CHAT, {**CHAT, "@requestFormat": "/v1/chat/completions", "stream": True}]
    async with opened(plugins=vertex) as client:
        response = await client.post("/v1/models/m:predict", json={"instances": instances})
        assert response.status_code == 200, response.text
        native, chat, by_path = response.json()["predictions"]
        assert (await client.get("/ping")).json() == {"status": "ok"}
        assert "/v1/models/m:predict" in (await client.get("/openapi.json")).json()["paths"]
    assert native["content"] == "bc"
    assert chat["choices"][0]["message"]["content"] == by_path["choices"][0]["message"]["content"] == "ab"


async def test_failed_instances_have_their_errors(opened: Open, vertex: Plugins) -> None:
    wrong: list[Any] = [
        {"prompt": "a"},
        {"@requestFormat": 5},
        {"@requestFormat": "chatCompletion"},
        {"@requestFormat": "/v1/models/m:predict", "instances": []},
        {**COMPLETION, "prompt": 5},
        COMPLETION,
    ]
    async with opened(plugins=vertex) as client:
        predictions = (await client.post("/v1/models/m:predict", json={"instances": wrong})).json()["predictions"]
        errors = [prediction["error"] for prediction in predictions[:-1]]
        assert {error["code"] for error in errors} == {400}
        assert [error["param"] for error in errors] == [*["@requestFormat"] * 4, "prompt"]
        assert errors[2]["message"].endswith("did you mean 'chatCompletions'?")
        assert predictions[-1]["content"] == "bc"

        bodies: list[Any] = [{}, {"instances": 5}, {"instances": [5]}, {"instances": [{}] * 129}]
        for body in bodies:
            response = await client.post("/v1/models/m:predict", json=body)
            assert (response.status_code, response.json()["error"]["param"].partition(".")[0]) == (400, "instances")


async def test_instances_have_the_key_of_the_request(opened: Open, vertex: Plugins) -> None:
    async with opened(plugins=vertex, api_key=("one",), api_prefix="/llm") as client:
        body = {"instances": [COMPLETION]}
        assert (await client.get("/llm/ping")).status_code == 200
        assert (await client.post("/llm/v1/models/m:predict", json=body)).status_code == 401
        response = await client.post("/llm/v1/models/m:predict", json=body, headers={"X-Api-Key": "one"})
    assert response.json()["predictions"][0]["content"] == "bc"


@pytest.mark.parametrize("environ", [{}, {"AIP_MODE": "TRAINING"}, {"AIP_PREDICT_ROUTE": "/p"}])
def test_routes_do_not_exist_without_vertex_ai(environ: dict[str, str]) -> None:
    assert Vertex(environ).extend_openapi() is None


def test_the_routes_have_defaults() -> None:
    fragment = Vertex({"AIP_MODE": "PREDICTION"}).extend_openapi()
    assert fragment is not None
    assert list(fragment["paths"]) == ["/predict"]
    same = Vertex({"AIP_MODE": "PREDICTION", "AIP_HEALTH_ROUTE": "/health"}).extend_openapi()
    assert same is not None
    assert list(same["paths"]) == ["/predict"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "chatCompletions"),
        ("/apply-template", "applyTemplate"),
        ("/completion", "completion"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/chat/completions/input_tokens", "chatCompletionsInputTokens"),
    ],
)
def test_formats_are_the_words_of_paths(path: str, name: str) -> None:
    assert format_name(path) == name
