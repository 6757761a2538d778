"""POST /v1/messages and /v1/messages/count_tokens, with and without Anthropic's client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import ModelInfo, RawMessageStreamEvent
from pydantic import TypeAdapter

from support.toy_model import ToyTokenizer

USER: Any = {"role": "user", "content": "Hi"}
BODY: dict[str, Any] = {"model": "any", "max_tokens": 30, "messages": [USER]}
CALLS = (
    'Let me see.<tool_call>\\n{"name": "look", "arguments": {"at": "é"}}\\n</tool_call>'
    '<tool_call>\\n{"name": "stop", "arguments": {}}\\n</tool_call>'
)
TOOLS: Any = [
    {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"at": {}}}},
    {"name": "stop", "input_schema": {"type": "object", "properties": {}}},
]
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def saying(text: str) -> dict[str, Any]:
    """Return the fields with which the answer is exactly this text."""
    return {"grammar": f'root ::= "{text}"', "max_tokens": 400}


def sdk_of(client: httpx.AsyncClient, **options: Any) -> AsyncAnthropic:
    """Return Anthropic's client for the application behind another client."""
    transport: Any = client._transport
    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(transport.app), base_url="http://test")
    return AsyncAnthropic(base_url="http://test", http_client=http_client, max_retries=0, **{"api_key": "k", **options})


@pytest.fixture
async def roomy(opened: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server with room for long prompts."""
    async with opened(n_ctx=4096) as client:
        yield client


def quotes(text: str) -> str:
    return text.replace('"', '\\"')


async def test_answers_are_messages(client: httpx.AsyncClient) -> None:
    message = (await client.post("/v1/messages?beta=true", json=BODY)).json()
    assert message["content"] == [{"type": "text", "text": "abcdefghijklmnopqrstuvwxyz"}]
    assert message["id"].startswith("msg_")
    assert {name: message[name] for name in ("type", "role", "model", "stop_reason", "stop_sequence")} == {
        "type": "message",
        "role": "assistant",
        "model": "any",
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    usage = message["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == len("u:Hi;a:")
    assert usage["output_tokens"] == 27


async def test_a_prompt_that_is_sent_again_is_read_from_the_cache(client: httpx.AsyncClient) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": "Twice"}], "max_tokens": 2}
    first, second = [(await client.post("/v1/messages", json=body)).json()["usage"] for _ in range(2)]
    assert second["cache_read_input_tokens"] > first["cache_read_input_tokens"]
    assert sum(second[name] for name in ("input_tokens", "cache_read_input_tokens")) == len("u:Twice;a:")


@pytest.mark.parametrize(
    ("fields", "text", "reason", "sequence"),
    [
        ({"max_tokens": 3}, "abc", "max_tokens", None),
        ({"max_tokens": 0}, None, "max_tokens", None),
        ({"stop_sequences": ["xyz", "de"]}, "abc", "stop_sequence", "de"),
        ({"stop": "c"}, "ab", "stop_sequence", "c"),
        (
            {"max_tokens": 60, "ignore_eos": True, "logit_bias": {"97": 100}},
            None,
            "model_context_window_exceeded",
            None,
        ),
    ],
)
async def test_messages_have_the_reason_for_their_end(
    client: httpx.AsyncClient, fields: Any, text: str | None, reason: str, sequence: str | None
) -> None:
    message = (await client.post("/v1/messages", json={**BODY, **fields})).json()
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)
    if text is not None:
        assert message["content"][0]["text"] == text


async def test_count_is_the_number_of_prompt_tokens(client: httpx.AsyncClient) -> None:
    conversation = {"system": "Be kind", "messages": [USER, {"role": "assistant", "content": "a"}, USER]}
    count = (await client.post("/v1/messages/count_tokens", json=conversation)).json()
    message = (await client.post("/v1/messages", json={**conversation, "max_tokens": 1})).json()
    usage = message["usage"]
    assert count == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}
    assert count["input_tokens"] == len("s:Be kind;u:Hi;a:a;u:Hi;a:")


@pytest.mark.parametrize("text", ["plain", CALLS])
async def test_streams_have_the_events_of_the_client(roomy: httpx.AsyncClient, text: str) -> None:
    body = {**BODY, **saying(quotes(text)), "tools": TOOLS}
    whole = (await roomy.post("/v1/messages", json=body)).json()
    response = await roomy.post("/v1/messages", json={**body, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")

    events = []
    for event in response.text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
        if events[-1]["type"] != "ping":
            EVENT.validate_python(events[-1], strict=True)
    assert events[0]["type"] == "message_start"
    assert events[0]["message"]["content"] == []
    assert events[-1] == {"type": "message_stop"}
    assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"]


async def test_the_client_accumulates_the_same_message(roomy: httpx.AsyncClient) -> None:
    sdk = sdk_of(roomy)
    fields: Any = {"model": "m", "messages": [USER], "tools": TOOLS, "extra_body": saying(quotes(CALLS))}
    whole = await sdk.messages.create(**fields, max_tokens=400)
    async with sdk.messages.stream(**fields, max_tokens=400) as stream:
        streamed = await stream.get_final_message()

    assert [block.type for block in whole.content] == ["text", "tool_use", "tool_use"]
    assert whole.stop_reason == streamed.stop_reason == "tool_use"
    for one, other in zip(whole.content, streamed.content, strict=True):
        assert one.to_dict() | {"id": 0} == other.to_dict() | {"id": 0}
    assert [block.input for block in whole.content if block.type == "tool_use"] == [{"at": "é"}, {}]


async def test_an_answer_can_be_sent_back(roomy: httpx.AsyncClient) -> None:
    sdk = sdk_of(roomy)
    first = await sdk.beta.messages.create(
        model="m",
        messages=[USER],
        tools=TOOLS,
        max_tokens=400,
        betas=["unknown-2026"],
        extra_body=saying(quotes(CALLS)),
    )
    results: Any = [
        {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "seen"}]}
        for block in first.content
        if block.type == "tool_use"
    ]
    history: Any = [USER, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    answer = await sdk.beta.messages.create(model="m", messages=history, tools=TOOLS, max_tokens=5)
    assert answer.content[0].to_dict()["text"] == "abcde"
    count = await sdk.beta.messages.count_tokens(model="m", messages=history, tools=TOOLS)
    assert count.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)


async def test_required_calls_are_enforced(roomy: httpx.AsyncClient) -> None:
    choice = {"type": "tool", "name": "stop", "disable_parallel_tool_use": True}
    tool = {**TOOLS[1], "input_schema": {"type": "object", "properties": {}, "additionalProperties": False}}
    body = {**BODY, "tools": [TOOLS[0], tool], "tool_choice": choice, "max_tokens": 300}
    message = (await roomy.post("/v1/messages", json=body)).json()
    (block,) = message["content"]
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "stop", {})
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize("name", ["output_config", "output_format"])
async def test_answers_have_the_requested_format(roomy: httpx.AsyncClient, name: str) -> None:
    properties = {"ok": {"const": True}}
    schema = {"type": "object", "properties": properties, "required": ["ok"], "additionalProperties": False}
    format = {"type": "json_schema", "schema": schema}
    body = {**BODY, name: format if name == "output_format" else {"format": format}, "max_tokens": 100}
    message = (await roomy.post("/v1/messages", json=body)).json()
    assert json.loads(message["content"][0]["text"]) == {"ok": True}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages.0.role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages.0.content.0: image needs",
        ),
        ({"temperature": "hot"}, "temperature"),
        (
            {"tool_choice": {"type": "tool", "name": "x"}, "tools": TOOLS},
            "tool_choice.name: the tool 'x' is not in tools",
        ),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools.1.name: two tools have the same name"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "thing"}}}},
            "output_config.format.schema",
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {}}}, "grammar": 'root ::= "a"'},
            'either "grammar" or "output_config.format" can be specified',
        ),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"stop_sequences": [""]}, "stop_sequences.0"),
        ({"messages": [{"role": "user", "content": "x" * 99}]}, "prompt is too long: 104 tokens > 64 maximum"),
    ],
)
async def test_invalid_requests_are_400(client: httpx.AsyncClient, fields: Any, message: str) -> None:
    body = {name: value for name, value in {**BODY, **fields}.items() if value is not None}
    for stream in (False, True):
        response = await client.post("/v1/messages", json={**body, "stream": stream})
        assert response.status_code == 400, response.text
        error = response.json()
        assert error["type"] == "error"
        assert error["error"]["type"] == "invalid_request_error"
        assert message in error["error"]["message"]
        assert error["request_id"] == response.headers["x-request-id"]


async def test_errors_are_those_of_the_client(opened: Any) -> None:
    async with opened(api_key=("key",), max_body_mb=1) as client:
        sdk, stranger = sdk_of(client, api_key="key"), sdk_of(client, api_key="wrong")
        assert (await sdk.messages.create(model="m", max_tokens=2, messages=[USER])).content
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await stranger.messages.create(model="m", max_tokens=2, messages=[{"role": "user", "content": "Hi"}])
        assert caught.value.type == "authentication_error"
        content = "x" * 2**21
        with pytest.raises(anthropic.RequestTooLargeError) as large:
            await sdk.messages.create(model="m", max_tokens=2, messages=[{"role": "user", "content": content}])
        assert large.value.type == "request_too_large"  # type: ignore[comparison-overlap]  # the client lacks this type
        with pytest.raises(anthropic.NotFoundError) as missing:
            await sdk.messages.batches.list()
        assert missing.value.type == "not_found_error"
        wrong_method = await client.get("/v1/messages", headers={"x-api-key": "key"})
        assert (wrong_method.status_code, wrong_method.json()["error"]["type"]) == (405, "invalid_request_error")


async def test_server_for_embeddings_refuses_messages_as_invalid(opened: Any) -> None:
    async with opened(embedding=True) as client:
        response = await client.post("/v1/messages", json=BODY)
        assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_unknown_fields_are_named(client: httpx.AsyncClient) -> None:
    fields = {"context_management": {"edits": []}, "metadata": {"user_id": "u"}, "service_tier": "auto"}
    response = await client.post("/v1/messages", json={**BODY, **fields})
    assert response.status_code == 200
    assert response.headers["x-llamafw-ignored-fields"] == "context_management"


async def test_template_gets_its_variables(opened: Any) -> None:
    template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}{{ more }}:"
    async with opened(template=template, tokenizer=ToyTokenizer()) as client:
        body = {**BODY, "chat_template_kwargs": {"more": "xyz"}}
        count = (await client.post("/v1/messages/count_tokens", json=body)).json()
        assert count == {"input_tokens": len("u:Hi;xyz:")}


async def test_responses_have_the_id_that_clients_read(client: httpx.AsyncClient) -> None:
    sdk = sdk_of(client)
    message = await sdk.messages.create(model="any", max_tokens=2, messages=[USER])
    assert message._request_id
    assert (await sdk.messages.count_tokens(model="any", messages=[USER]))._request_id
    async with sdk.messages.stream(model="any", max_tokens=2, messages=[USER]) as stream:
        assert stream.response.headers["request-id"] == stream.response.headers["x-request-id"]

    with pytest.raises(anthropic.BadRequestError) as caught:
        await sdk.messages.create(model="any", max_tokens=-1, messages=[USER])
    assert caught.value.request_id == caught.value.body["request_id"]  # type: ignore[index]  # its type is object
    for path in ("/v1/messages", "/v1/messages/batches"):
        response = await client.get(path, headers={"X-Request-Id": "mine"})
        assert response.headers["request-id"] == "mine"
    assert "request-id" not in (await client.get("/health")).headers


async def test_clients_list_the_model(client: httpx.AsyncClient) -> None:
    sdk = sdk_of(client)
    page = await sdk.models.list(limit=20)
    (model,) = [item async for item in page]
    assert ModelInfo.model_validate(model.to_dict(), strict=True).id == "toy"
    assert (page.first_id, page.last_id, page.has_more, page._request_id is None) == ("toy", "toy", False, False)
    assert await sdk.models.retrieve("toy") == model
    with pytest.raises(anthropic.NotFoundError):
        await sdk.models.retrieve("claude-opus-4-6")

    listed = (await client.get("/v1/models")).json()
    assert not {"has_more", "first_id"} & listed.keys()
    assert not {"type", "created_at"} & listed["data"][0].keys()
