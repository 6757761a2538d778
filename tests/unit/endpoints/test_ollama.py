"""The operations below /api, with and without Ollama's client."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import httpx
import numpy as np
import ollama
import pytest

from unit.endpoints.conftest import InfillTokenizer

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
USER: dict[str, Any] = {"role": "user", "content": "Hi"}
CHAT: dict[str, Any] = {"model": "any", "messages": [USER]}
CALLS = (
    'Let me see.<tool_call>\\n{"name": "look", "arguments": {"at": "é"}}\\n</tool_call>\\n'
    '<tool_call>\\n{"name": "stop", "arguments": {}}\\n</tool_call>'
)
TOOLS: Any = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {}}}}},
    {"type": "function", "function": {"name": "stop", "description": "Stops.", "parameters": {"type": "object"}}},
]


def sdk_of(client: httpx.AsyncClient, **options: Any) -> ollama.AsyncClient:
    """Return Ollama's client for the application behind another client."""
    return ollama.AsyncClient(host="http://test", transport=client._transport, **options)


def lines_of(response: httpx.Response) -> list[Any]:
    """Return the parsed lines of a stream."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


@pytest.fixture
async def roomy(opened: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server with room for long prompts, which says what the field ``grammar`` of plugins says."""
    async with opened(n_ctx=4096) as client:
        yield client


async def test_chats_are_streams_of_lines(client: httpx.AsyncClient) -> None:
    *lines, last = lines_of(await client.post("/api/chat", json=CHAT))
    assert "".join(line["message"]["content"] for line in lines) == ALPHABET
    assert all(line["done"] is False and line["model"] == "any" for line in lines)
    datetime.fromisoformat(lines[0]["created_at"])
    assert last["message"] == {"role": "assistant", "content": ""}
    assert (last["done"], last["done_reason"]) == (True, "stop")
    assert (last["prompt_eval_count"], last["eval_count"]) == (len("u:Hi;a:"), 27)
    assert last["total_duration"] >= last["eval_duration"] >= 0


async def test_whole_chats_have_the_text_of_the_stream(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/chat", json={**CHAT, "stream": False})
    assert response.headers["content-type"].startswith("application/json")
    assert response.json()["message"] == {"role": "assistant", "content": ALPHABET}
    assert response.json()["done_reason"] == "stop"


@pytest.mark.parametrize(
    ("options", "text", "reason"),
    [
        ({"num_predict": 3}, "abc", "length"),
        ({"stop": ["de"]}, "abc", "stop"),
        ({"stop": "de", "seed": 1, "num_keep": 4, "top_k": 1, "repeat_last_n": -1, "mirostat": 0}, "abc", "stop"),
        ({"num_predict": None, "stop": None, "temperature": None, "num_ctx": 64}, ALPHABET, "stop"),
    ],
)
async def test_options_are_applied(client: httpx.AsyncClient, options: Any, text: str, reason: str) -> None:
    for path, extra in (("/api/chat", CHAT), ("/api/generate", {"model": "any", "prompt": "Hi"})):
        response = await client.post(path, json={**extra, "stream": False, "options": options})
        answer = response.json()
        assert (answer["message"]["content"] if "message" in answer else answer["response"]) == text
        assert answer["done_reason"] == reason
        assert "x-llamafw-ignored-fields" not in response.headers


async def test_options_without_effect_are_named(client: httpx.AsyncClient, opened: Any) -> None:
    options = {"num_ctx": 128, "num_gpu": 3, "use_mmap": True, "temperature": 0.5}
    response = await client.post("/api/chat", json={**CHAT, "options": options, "keep_alive": "5m"})
    assert response.headers["x-llamafw-ignored-fields"] == "options.num_ctx, options.num_gpu, options.use_mmap"
    async with opened(strict_fields=True) as strict:
        refused = await strict.post("/api/chat", json={**CHAT, "options": {"num_gpu": 3}})
        assert (refused.status_code, refused.json()) == (400, {"error": "options.num_gpu has no effect on this server"})


@pytest.mark.parametrize("keep_alive", ["5m", 0, -1, 1.5, None])
async def test_requests_without_a_prompt_load_the_model(client: httpx.AsyncClient, keep_alive: Any) -> None:
    for path, fields in (("/api/chat", {"messages": []}), ("/api/chat", {}), ("/api/generate", {"prompt": ""})):
        answer = (await client.post(path, json={"model": "any", "keep_alive": keep_alive, **fields})).json()
        assert (answer["done"], answer["done_reason"]) == (True, "load")


async def test_answers_have_the_requested_format(roomy: httpx.AsyncClient) -> None:
    properties = {"ok": {"const": True}}
    schema = {"type": "object", "properties": properties, "required": ["ok"], "additionalProperties": False}
    body = {**CHAT, "stream": False, "format": schema}
    answer = (await roomy.post("/api/chat", json=body)).json()
    assert json.loads(answer["message"]["content"]) == {"ok": True}
    body = {"model": "any", "prompt": "Hi", "format": "json", "stream": False, "options": {"num_predict": 5}}
    assert (await roomy.post("/api/generate", json=body)).json()["response"].startswith("{")
    unconstrained = (await roomy.post("/api/chat", json={**CHAT, "stream": False, "format": ""})).json()
    assert unconstrained["message"]["content"] == ALPHABET


async def test_logprobs_are_reported_for_each_token(client: httpx.AsyncClient) -> None:
    body = {**CHAT, "logprobs": True, "top_logprobs": 2, "options": {"num_predict": 2}}
    answer = await sdk_of(client).chat(**CHAT, logprobs=True, top_logprobs=2, options={"num_predict": 2})
    assert answer.logprobs is not None
    assert [item.token for item in answer.logprobs] == ["a", "b"]
    assert all(len(item.top_logprobs or ()) == 2 for item in answer.logprobs)
    streamed = [
        item for line in lines_of(await client.post("/api/chat", json=body)) for item in line.get("logprobs", ())
    ]
    assert [item["token"] for item in streamed] == ["a", "b"]


async def test_completions_use_system_and_context(client: httpx.AsyncClient) -> None:
    body = {"model": "any", "prompt": "Hi", "system": "Be", "options": {"num_predict": 2}, "stream": False}
    first = (await client.post("/api/generate", json=body)).json()
    assert bytes(first["context"]) == b"s:Be;u:Hi;a:ab"
    second = (await client.post("/api/generate", json={**body, "system": "", "context": first["context"]})).json()
    assert bytes(second["context"]) == b"s:Be;u:Hi;a:abu:Hi;a:ab"


async def test_raw_prompts_are_continued(client: httpx.AsyncClient) -> None:
    answer = await sdk_of(client).generate(model="any", prompt="wx", raw=True)
    assert (answer.response, answer.prompt_eval_count, answer.context) == ("yz", 2, None)


async def test_suffixes_need_a_model_for_infill(client: httpx.AsyncClient, opened: Any) -> None:
    body = {"model": "any", "prompt": "ab", "suffix": "yz", "stream": False}
    refused = await client.post("/api/generate", json=body)
    assert refused.status_code == 400
    assert "Infill is not supported" in refused.json()["error"]
    async with opened(tokenizer=InfillTokenizer()) as infill:
        answer = (await infill.post("/api/generate", json=body)).json()
        assert (answer["done"], answer["prompt_eval_count"]) == (True, 7)


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        (
            "chat",
            {"messages": [{"role": "user", "content": "", "images": ["aGk="]}]},
            "messages.0.images: an image needs",
        ),
        ("chat", {"messages": [{"role": "robot"}]}, "messages.0.role"),
        ("chat", {"options": {"temperature": "hot"}}, "options.temperature"),
        ("chat", {"options": {"num_predict": -3}}, "options.num_predict"),
        ("chat", {"format": "xml"}, "format"),
        ("chat", {"format": {"properties": {"a": {"type": "thing"}}}}, "format.properties.a.type: "),
        ("generate", {"prompt": "a", "raw": True, "format": {"minItems": "x"}}, "format.minItems: "),
        ("chat", {"think": "deeply"}, "think"),
        ("chat", {"model": None}, "model"),
        ("chat", {"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ("chat", {"messages": [{"role": "user", "content": "x" * 99}]}, "messages: the prompt has 104 tokens"),
        ("chat", {"messages": [{"role": "user", "content": "x" * 99}]}, "; truncate: true shortens it"),
        ("generate", {"prompt": "x" * 99}, "the prompt has 104 tokens"),
        ("generate", {"prompt": "x" * 99, "raw": True}, "the prompt has 99 tokens"),
        ("chat", {"format": {"type": "objec"}, "stream": False}, "format.type: "),
        ("generate", {"prompt": "a", "format": {"type": "objec"}, "stream": False}, "format.type: "),
        ("generate", {"prompt": "a", "template": "{{ .Prompt }}"}, "templates of requests are not supported"),
        ("generate", {"prompt": "a", "images": ["aGk="]}, "an image needs"),
        ("generate", {"prompt": "a", "raw": True, "system": "b"}, "system cannot be combined with raw"),
        ("generate", {"prompt": "a", "context": [1, 9999]}, "9999 is not in the vocabulary"),
        ("embed", {"input": [1]}, "input"),
        ("embed", {"input": "a", "dimensions": 2}, "dimensions"),
    ],
)
async def test_invalid_requests_are_400(client: httpx.AsyncClient, path: str, fields: Any, message: str) -> None:
    body = {**(CHAT if path == "chat" else {"model": "any"}), **fields}
    response = await client.post(
        f"/api/{path}", json={name: value for name, value in body.items() if value is not None}
    )
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("chat", {"messages": [{"role": "user", "content": "x" * 99}]}, "messages: the prompt has 104 tokens"),
        ("generate", {"prompt": "x" * 99}, "the prompt has 104 tokens"),
        ("chat", {"messages": [USER], "format": {"contains": {}}}, "format.contains: the keyword"),
        ("generate", {"prompt": "a", "format": {"type": "zz"}}, "format.type: 'type' must be"),
    ],
)
async def test_errors_name_fields_of_the_request(
    client: httpx.AsyncClient, path: str, fields: Any, message: str
) -> None:
    response = await client.post(f"/api/{path}", json={"model": "any", "stream": False, **fields})
    assert response.status_code == 400
    assert response.json()["error"].startswith(message)


async def test_errors_of_the_server_have_the_format(opened: Any) -> None:
    async with opened(api_key=("key",), max_body_mb=1) as client:
        for path in ("/api/tags", "/api/unknown"):
            response = await client.get(path)
            assert response.status_code == (401 if path == "/api/tags" else 404)
            assert isinstance(response.json()["error"], str)
        with pytest.raises(ollama.ResponseError, match="Invalid API Key") as caught:
            await sdk_of(client).chat(**CHAT)
        assert caught.value.status_code == 401
        sdk = sdk_of(client, headers={"Authorization": "Bearer key"})
        assert (await sdk.chat(**CHAT)).message.content == ALPHABET
        with pytest.raises(ollama.ResponseError, match="larger than") as large:
            await sdk.generate(model="any", prompt="x" * 2**21)
        assert large.value.status_code == 413


async def test_errors_in_a_stream_are_lines(opened: Any) -> None:
    def failing(prefix: Any) -> Any:
        if len(prefix) > 9:
            raise ValueError("broken")
        row = np.zeros(264, np.float32)
        row[ord("a")] = 20
        return row

    async with opened(scores=failing) as client:
        *lines, last = lines_of(await client.post("/api/chat", json=CHAT))
        assert lines
        assert isinstance(last["error"], str)
        with pytest.raises(ollama.ResponseError):
            async for _ in await sdk_of(client).chat(**CHAT, stream=True):
                pass


async def test_calls_come_whole_and_can_be_sent_back(opened: Any) -> None:
    def scores(prefix: Any) -> Any:
        text = bytes(token for token in prefix if token < 256)
        said = text.rpartition(b"a:")[2]
        answer = CALLS.replace("\\n", "\n").encode() if b"seen" not in text else b"Done."
        row = np.zeros(264, np.float32)
        row[answer[len(said)] if len(said) < len(answer) else 257] = 20
        return row

    async with opened(scores=scores, n_ctx=4096) as client:
        sdk = sdk_of(client)
        whole = await sdk.chat(model="m", messages=[USER], tools=TOOLS)
        streamed = [part async for part in await sdk.chat(model="m", messages=[USER], tools=TOOLS, stream=True)]
        calls = [call for part in streamed for call in part.message.tool_calls or ()]
        assert whole.message.content == "".join(part.message.content or "" for part in streamed) == "Let me see."
        assert [call.function.model_dump() for call in whole.message.tool_calls or ()] == [
            {"name": "look", "arguments": {"at": "é"}},
            {"name": "stop", "arguments": {}},
        ]
        assert [call.function for call in calls] == [call.function for call in whole.message.tool_calls or ()]

        results = [{"role": "tool", "tool_name": name, "content": "seen"} for name in ("look", "stop")]
        answer = await sdk.chat(model="m", messages=[USER, whole.message, *results], tools=TOOLS)
        assert answer.message.content == "Done."


async def test_models_are_listed(opened: Any) -> None:
    async with opened(name="toy") as client:
        sdk = sdk_of(client)
        (model,) = (await sdk.list()).models
        (running,) = (await sdk.ps()).models
        assert model.model == running.model == "toy:latest"
        assert model.digest == running.digest
        assert re.fullmatch(r"[0-9a-f]{64}", model.digest or "")
        assert running.context_length == 64
        assert model.details is not None
        assert (model.details.format, model.details.parameter_size, model.details.quantization_level) == (
            "gguf",
            "12",
            "F32",
        )


@pytest.mark.parametrize("name", ["toy", "toy:latest"])
async def test_the_model_is_described_and_pulled(opened: Any, name: str) -> None:
    metadata = {"general.architecture": "llama", "llama.context_length": np.uint32(64), "general.file_type": 15}
    async with opened(metadata={**metadata, "tokenizer.ggml.tokens": ["a", "b"]}) as client:
        sdk = sdk_of(client)
        shown = await sdk.show(name)
        info = shown.modelinfo or {}
        assert info["llama.context_length"] == 64
        assert info["tokenizer.ggml.tokens"] is None
        assert info["general.parameter_count"] == 12
        assert shown.capabilities == ["completion", "tools"]
        assert re.fullmatch(r"num_ctx +64", shown.parameters or "")
        assert shown.details is not None
        assert (shown.details.family, shown.details.quantization_level) == ("llama", "Q4_K_M")
        assert "add_generation_prompt" in (shown.template or "")
        verbose = (await client.post("/api/show", json={"name": name, "verbose": True})).json()
        assert verbose["model_info"]["tokenizer.ggml.tokens"] == ["a", "b"]

        assert [part.status async for part in await sdk.pull(name, stream=True)] == ["pulling manifest", "success"]
        assert (await sdk.pull(name)).status == "success"


async def test_the_model_is_known_by_each_of_its_names(opened: Any) -> None:
    async with opened(name="toy", alias=("toy", "llama3.2:1b")) as client:
        sdk = sdk_of(client)
        assert [model.model for model in (await sdk.list()).models] == ["toy:latest", "llama3.2:1b"]
        assert [model.model for model in (await sdk.ps()).models] == ["toy:latest"]
        for name in ("llama3.2:1b", "TOY", "Toy:latest"):
            assert (await sdk.show(name)).details
            assert (await sdk.pull(name)).status == "success"
        with pytest.raises(ollama.ResponseError, match="'llama3.2' not found"):
            await sdk.show("llama3.2")


async def test_the_context_is_not_longer_than_that_of_the_server(opened: Any) -> None:
    metadata = {"general.architecture": "llama", "llama.context_length": np.uint32(8192)}
    async with opened(metadata=metadata) as client:
        info = (await sdk_of(client).show("toy")).modelinfo or {}
        assert info["llama.context_length"] == 64


async def test_prompts_are_shortened_if_the_client_allows_it(client: httpx.AsyncClient) -> None:
    fields = {"model": "any", "truncate": True, "stream": False, "options": {"num_predict": 1}}
    for path, prompt in (
        ("chat", {"messages": [{"role": "user", "content": "x" * 99}]}),
        ("generate", {"prompt": "x" * 99}),
        ("generate", {"prompt": "x" * 99, "raw": True}),
    ):
        response = await client.post(f"/api/{path}", json={**fields, **prompt})
        assert response.status_code == 200, response.text
        assert 0 < response.json()["prompt_eval_count"] < 64
        assert "x-llamafw-ignored-fields" not in response.headers


async def test_other_models_are_not_found(client: httpx.AsyncClient) -> None:
    sdk = sdk_of(client)
    with pytest.raises(
        ollama.ResponseError, match="model 'other' not found; this server has the model 'toy:latest'"
    ) as shown:
        await sdk.show("other")
    assert shown.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="cannot download others"):
        await sdk.pull("toy:8b")


async def test_models_cannot_be_changed(client: httpx.AsyncClient) -> None:
    sdk = sdk_of(client)
    for change in (sdk.copy("toy", "other"), sdk.delete("toy"), sdk.create("other", from_="toy"), sdk.push("toy")):
        with pytest.raises(ollama.ResponseError, match="has one model, 'toy', which clients cannot change") as caught:
            await change
        assert caught.value.status_code == 501


async def test_texts_are_embedded(client: httpx.AsyncClient) -> None:
    sdk = sdk_of(client)
    both = await sdk.embed(model="any", input=["one", "two"])
    alone = await sdk.embed(model="any", input="two", keep_alive=0)
    assert both.prompt_eval_count == 6
    assert both.embeddings[1] == alone.embeddings[0]
    np.testing.assert_allclose(np.linalg.norm(both.embeddings, axis=1), 1, rtol=1e-6)
    nothings: tuple[dict[str, Any], ...] = ({"input": []}, {"input": ""}, {"input": None}, {})
    for nothing in nothings:
        assert (await client.post("/api/embed", json={"model": "any", **nothing})).json()["embeddings"] == []

    older = np.array((await sdk.embeddings(model="any", prompt="two")).embedding)
    np.testing.assert_allclose(older / np.linalg.norm(older), alone.embeddings[0], rtol=1e-5)
    assert (await client.post("/api/embeddings", json={"model": "any"})).json() == {"embedding": []}


async def test_long_texts_are_shortened_unless_the_client_forbids_it(client: httpx.AsyncClient) -> None:
    sdk = sdk_of(client)
    assert (await sdk.embed(model="any", input="x" * 99)).prompt_eval_count == 64
    with pytest.raises(ollama.ResponseError, match="99"):
        await sdk.embed(model="any", input="x" * 99, truncate=False)


async def test_version_is_one_that_clients_accept(client: httpx.AsyncClient) -> None:
    version = (await client.get("/api/version")).json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)


async def test_without_the_web_page_the_root_has_the_words_of_ollama(client: httpx.AsyncClient, opened: Any) -> None:
    assert (await client.get("/")).text.startswith("<!doctype html>")
    async with opened(webui=False, api_key=("key",)) as plain:
        response = await plain.get("/")
        assert (response.status_code, response.text) == (200, "Ollama is running")
        assert (await plain.head("/")).status_code == 200
        assert (await plain.delete("/")).status_code == 405


@pytest.mark.parametrize("path", ["/", "/api/tags", "/api/version"])
async def test_clients_can_check_that_the_server_runs(client: httpx.AsyncClient, path: str) -> None:
    response = await client.head(path)
    assert (response.status_code, response.content) == (200, b"")
