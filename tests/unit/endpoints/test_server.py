"""GET /health, /v1/models, /props and /openapi.json, and which operations need an API key."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from openai.types import Model

from llamafw import Call, Unavailable
from llamafw_plugins.endpoints.server import ServerEndpoints, ftype_name
from unit.endpoints.conftest import Open

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL_META = {
    "vocab_type": 2,
    "n_vocab": 264,
    "n_ctx": 64,
    "n_ctx_train": 64,
    "n_embd": 8,
    "n_params": 12,
    "size": 48,
    "ftype": "",
}


@pytest.mark.inventory("E-001", "R-10", "T-13")
@pytest.mark.parametrize("path", ["/health", "/v1/health"])
async def test_health_is_ok(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).json() == {"status": "ok"}


async def test_health_fails_with_the_engine() -> None:
    models = [SimpleNamespace(name=name, engine=SimpleNamespace(failed=name == "small")) for name in ("large", "small")]
    app: Any = SimpleNamespace(loaded=SimpleNamespace(all=models[1:]))
    with pytest.raises(Unavailable, match="the engine has failed; the server must be restarted"):
        await ServerEndpoints(app).health(Call(None, {}, {}, None))  # type: ignore[arg-type]  # it does not use the request
    app.loaded.all = models
    with pytest.raises(Unavailable, match="the engine of small has failed"):
        await ServerEndpoints(app).health(Call(None, {}, {}, None))  # type: ignore[arg-type]  # it does not use the request


@pytest.mark.inventory("E-180", "R-10")
@pytest.mark.parametrize("path", ["/models", "/v1/models"])
async def test_models_lists_the_model(client: httpx.AsyncClient, path: str) -> None:
    response = (await client.get(path)).json()
    assert response["object"] == "list"
    (model,) = response["data"]
    assert (model["id"], model["owned_by"], model["meta"]) == ("toy", "llamafw", MODEL_META)


@pytest.mark.parametrize("path", ["/models/toy", "/v1/models/toy"])
async def test_model_is_found_by_its_id(client: httpx.AsyncClient, path: str) -> None:
    model = (await client.get(path)).json()
    assert Model.model_validate(model).id == "toy"
    assert model == (await client.get("/v1/models")).json()["data"][0]


@pytest.mark.parametrize("path", ["/models", "/v1/models"])
@pytest.mark.parametrize("model", ["gpt-4o", "Toy", "toy.gguf", "a/b"])
async def test_unknown_model_is_404(client: httpx.AsyncClient, path: str, model: str) -> None:
    response = await client.get(f"{path}/{model}")
    assert response.status_code == 404
    assert response.json()["error"] == {
        "code": 404,
        "type": "not_found_error",
        "param": "model",
        "message": f"the model '{model}' does not exist; this server has the model 'toy'",
    }


@pytest.mark.parametrize("path", ["/v1/models/org/toy", "/v1/models/org%2Ftoy"])
async def test_model_id_may_contain_a_slash(opened: Open, path: str) -> None:
    async with opened(name="org/toy") as client:
        assert (await client.get(path)).json()["id"] == "org/toy"


@pytest.mark.inventory("O-08")
async def test_models_have_aliases_and_tags(opened: Open) -> None:
    async with opened(alias=("toy", "two", "three"), tags=("small", "fast")) as client:
        response = (await client.get("/v1/models")).json()
        (model,) = response["data"]
        assert (model["id"], model["aliases"], model["tags"]) == ("toy", ["two", "three"], ["small", "fast"])
        for name in ("toy", "two", "three"):
            assert (await client.get(f"/v1/models/{name}")).json()["id"] == "toy"
        assert (await client.get("/v1/models/four")).status_code == 404
    (listed,) = response["models"]
    assert (listed["name"], listed["capabilities"], listed["details"]["format"]) == ("toy", ["completion"], "gguf")


@pytest.mark.parametrize(
    ("number", "name"), [(2, "Q4_0"), (15, "Q4_K_M"), (1, "F16"), (0, "F32"), (9999, ""), (None, ""), ("x", "")]
)
async def test_file_types_have_names(number: Any, name: str) -> None:
    loaded: Any = SimpleNamespace(model=SimpleNamespace(metadata={"general.file_type": number}))
    assert ftype_name(loaded) == name


@pytest.mark.inventory("E-170", "R-11", "O-02")
async def test_props_describe_the_server(client: httpx.AsyncClient) -> None:
    props = (await client.get("/props")).json()
    assert (props["total_slots"], props["model_alias"], props["bos_token"], props["eos_token"]) == (2, "toy", "", "")
    assert "message.role[0]" in props["chat_template"]
    assert props["model_path"]
    assert (props["endpoint_slots"], props["endpoint_props"], props["ui"], props["is_sleeping"]) == (
        True,
        False,
        True,
        False,
    )
    settings = props["default_generation_settings"]
    assert (settings["n_ctx"], settings["temperature"], settings["params"]["temperature"]) == (64, 0.8, 0.8)


async def test_openapi_has_sampler_fields(client: httpx.AsyncClient) -> None:
    response = await client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    properties = document["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert {"temperature", "top_k", "top_p", "repeat_penalty", "n_predict", "messages"} <= set(properties)
    assert {"dry_multiplier", "xtc_probability", "adaptive_target"} <= set(properties)


@pytest.mark.inventory("H-05", "H-07", "R-02", "R-10", "D-08", "F-13")
@pytest.mark.parametrize(
    ("method", "path", "public"),
    [
        ("GET", "/health", True),
        ("GET", "/v1/health", True),
        ("GET", "/models", True),
        ("GET", "/v1/models", True),
        ("GET", "/models/toy", True),
        ("GET", "/v1/models/toy", True),
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
async def test_operations_need_a_key_unless_public(opened: Open, method: str, path: str, public: bool) -> None:
    body: Any = {} if method == "POST" else None
    async with opened(api_key=("secret",)) as client:
        without_key = await client.request(method, path, json=body)
        with_key = await client.request(method, path, json=body, headers={"X-Api-Key": "secret"})
    assert without_key.status_code == (200 if public else 401)
    assert with_key.status_code == (400 if method == "POST" else 200)
