"""The Responses API, on models that answer with the text that the test sets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from openai.types.responses import Response
from pydantic import BaseModel

from support.responses import check_events, read_named_events
from unit.endpoints.conftest import Open
from unit.endpoints.test_tools import CALL, answering

PATH = "/v1/responses"
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CLOCK: dict[str, Any] = {"type": "function", "name": "clock"}
# A: the assistant's text, C: its calls, R: its reasoning
TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool | tojson }}]{% endfor %}"
    "{% for message in messages %}{{ message.role[0] }}:{{ message.content }}"
    "{% if message.reasoning_content %}<{{ message.reasoning_content }}>{% endif %}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }})"
    "{% endfor %};{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)
pytestmark = pytest.mark.inventory("T-03")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talker(opened: Open) -> AsyncIterator[httpx.AsyncClient]:
    """A server whose model always answers ``Hello``."""
    async with opened(scores=answering("Hello"), template=TEMPLATE, n_ctx=512) as client:
        yield client


async def create(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Return the response, which must be one; the defaults are a question and greedy sampling."""
    http = await client.post(PATH, json={"input": "Hi", "temperature": 0, **fields})
    assert http.status_code == 200, http.text
    if fields.get("stream"):
        return check_events(read_named_events(http.text))
    response: dict[str, Any] = http.json()
    Response.model_validate(response)
    return response


async def refused(client: httpx.AsyncClient, **fields: Any) -> tuple[str, str]:
    """Return the param and the message of a 400."""
    http = await client.post(PATH, json={"input": "Hi", **fields})
    assert http.status_code == 400, http.text
    error = http.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error["param"], error["message"]


async def prompt_of(client: httpx.AsyncClient, **fields: Any) -> str:
    """Return the prompt of a request, from the texts that a model with one token per byte was given."""
    counted = (await client.post(f"{PATH}/input_tokens", json=fields)).json()
    await create(client, **{"input": None, **fields})
    slots = (await client.get("/slots")).json()
    (slot,) = [slot for slot in slots if slot["id_task"] == max(slot["id_task"] for slot in slots)]
    assert counted["input_tokens"] == len(slot["prompt"].encode())
    return str(slot["prompt"])


def sdk(client: httpx.AsyncClient, key: str = "none") -> AsyncOpenAI:
    http_client: Any = client  # some versions of the package have a type of their own
    return AsyncOpenAI(base_url="http://test/v1", api_key=key, http_client=http_client, max_retries=0)


# --- the answer


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_is_a_message(talker: httpx.AsyncClient, stream: bool) -> None:
    response = await create(talker, stream=stream)
    (item,) = response["output"]
    assert item["content"][0]["text"] == "Hello"
    assert (response["status"], item["status"]) == ("completed", "completed")
    assert response["usage"]["output_tokens"] == len("Hello") + 1
    assert response["usage"]["total_tokens"] == response["usage"]["input_tokens"] + 6


async def test_alias_without_v1(talker: httpx.AsyncClient) -> None:
    assert (await talker.post("/responses", json={"input": "Hi", "temperature": 0})).json()["status"] == "completed"


async def test_response_repeats_the_request(talker: httpx.AsyncClient) -> None:
    fields = {
        "model": "any",
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "max_tool_calls": 3,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "user": "u",
        "temperature": 0.25,
        "top_p": 0.5,
        "truncation": "auto",
        "tool_choice": "none",
        "store": False,
    }
    response = await create(talker, **fields, tools=[WEATHER], service_tier="flex", reasoning={"effort": "low"})
    assert {name: response[name] for name in fields} == fields
    assert response["tools"] == [{**WEATHER, "description": None, "strict": None}]
    assert response["service_tier"] == "default"
    assert response["reasoning"] == {"effort": "low", "summary": None}
    assert response["text"]["format"] == {"type": "text"}


async def test_token_limit_makes_the_response_incomplete(talker: httpx.AsyncClient) -> None:
    for stream in (False, True):
        response = await create(talker, max_output_tokens=2, stream=stream)
        assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert response["output"][0]["content"][0]["text"] == "He"


async def test_native_fields_work(talker: httpx.AsyncClient) -> None:
    assert (await create(talker, n_predict=3))["output"][0]["content"][0]["text"] == "Hel"
    assert (await create(talker, stop=["l"]))["output"][0]["content"][0]["text"] == "He"
    assert (await create(talker, return_tokens=True, n_predict=2))["tokens"] == list(b"He")
    events = read_named_events(
        (await talker.post(PATH, json={"input": "Hi", "stream": True, "return_progress": True})).text
    )
    check_events(events)
    assert [event["prompt_progress"]["processed"] for event in events if "prompt_progress" in event]


async def test_logprobs_are_returned_if_included(talker: httpx.AsyncClient) -> None:
    for fields in ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, {"n_probs": 2}):
        for stream in (False, True):
            response = await create(talker, **fields, stream=stream)
            (part,) = response["output"][0]["content"]
            assert "".join(token["token"] for token in part["logprobs"]) == "Hello"
            assert all(len(token["top_logprobs"]) == 2 for token in part["logprobs"])
            assert response["top_logprobs"] == 2
    assert (await create(talker))["output"][0]["content"][0]["logprobs"] == []


async def test_structured_output_is_enforced(opened: Open) -> None:
    class Answer(BaseModel):
        blue: bool

    async with opened(scores=answering('{"blue": true}'), n_ctx=512) as client:
        schema = {"type": "object", "properties": {"blue": {"type": "boolean"}}, "required": ["blue"]}
        format = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
        for fields in ({"text": {"format": format}}, {"json_schema": schema}):
            response = await create(client, **fields, max_output_tokens=20)
            assert json.loads(response["output"][0]["content"][0]["text"]) == {"blue": True}
        parsed = await sdk(client).responses.parse(model="any", input="Hi", text_format=Answer, max_output_tokens=20)
        assert parsed.output_parsed == Answer(blue=True)

        response = await create(client, text={"format": {"type": "json_object"}}, max_output_tokens=3)
        assert response["output"][0]["content"][0]["text"].lstrip().startswith("{")


async def test_invalid_schemas_are_400_also_in_streams(talker: httpx.AsyncClient) -> None:
    for stream in (False, True):
        for type in (5, "strin"):
            text = {"format": {"type": "json_schema", "name": "x", "schema": {"type": type}}}
            param, message = await refused(talker, text=text, stream=stream)
            assert param.startswith("text.format")
            assert "response_format" not in message


# --- tools


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_are_items(opened: Open, stream: bool) -> None:
    async with opened(scores=answering(f"Let me see.\n{CALL}\n{CALL}"), n_ctx=2048) as client:
        response = await create(client, tools=[WEATHER, CLOCK], stream=stream)
        message, first, second = response["output"]
        assert message["content"][0]["text"] == "Let me see.\n"
        assert (first["name"], json.loads(first["arguments"])) == ("weather", {"city": "Ely"})
        assert first["call_id"] != second["call_id"]

        single = await create(client, tools=[WEATHER], parallel_tool_calls=False, stream=stream)
        assert [item["type"] for item in single["output"]] == ["message", "function_call"]
        none = await create(client, tools=[WEATHER], tool_choice="none", stream=stream)
        assert [item["type"] for item in none["output"]] == ["message"]


async def test_required_calls_are_enforced(opened: Open) -> None:
    async with opened(scores=answering(CALL), n_ctx=2048) as client:
        for choice in ("required", {"type": "function", "name": "weather"}):
            response = await create(client, tools=[WEATHER, CLOCK], tool_choice=choice)
            assert [item.get("name") for item in response["output"]] == ["weather"]
            assert response["tool_choice"] == choice


@pytest.mark.parametrize(("mode", "is_enforced"), [("required", True), ("auto", False)])
async def test_allowed_tools_limit_the_calls_but_not_the_prompt(opened: Open, mode: str, is_enforced: bool) -> None:
    choice: dict[str, Any] = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "weather"}]}
    text = CALL if is_enforced else "no call"
    async with opened(scores=answering(text), template=TEMPLATE, n_ctx=2048, slots=True) as client:
        response = await create(client, tools=[CLOCK, WEATHER], tool_choice=choice)
        assert [item.get("name") for item in response["output"]] == ["weather" if is_enforced else None]
        assert response["tool_choice"] == choice
        assert len(response["tools"]) == 2
        prompt = await prompt_of(client, input="Hi", tools=[CLOCK, WEATHER], tool_choice=choice)
        assert prompt.index('"name": "clock"') < prompt.index('"name": "weather"')
        choice["tools"] += [{"type": "function", "name": "clok"}]
        assert (await refused(client, tools=[CLOCK, WEATHER], tool_choice=choice))[0] == "tool_choice.tools.1.name"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools.0.name"),
        ({"tools": [CLOCK, CLOCK]}, "tools.1.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function", "name": "clok"}}, "tool_choice.name"),
        ({"tools": [CLOCK], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tools": [CLOCK], "tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "tool_choice.tools"),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
            "tool_choice.tools",
        ),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}},
            "tool_choice.tools.0.type",
        ),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": [], "instructions": ""}, "input"),
        ({"input": [{"role": "user", "content": None}]}, "input.0.content"),
        ({"reasoning_format": "xml"}, "reasoning_format"),
        ({"reasoning_budget_tokens": -2}, "reasoning_budget_tokens"),
        ({"input": [{"type": "computer_call"}]}, "input.0.type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input.0.content.0"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input.0.call_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"moderation": {}}, "moderation"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True, "store": False}, "background"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"include": ["everything"]}, "include.0"),
        ({"truncation": "yes"}, "truncation"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"temperature": "hot"}, "temperature"),
        ({"id_slot": 99}, "id_slot"),
    ],
)
async def test_invalid_requests_are_400(talker: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        assert (await refused(talker, **fields, stream=stream))[0] == param


async def test_fields_without_effect_are_named(talker: httpx.AsyncClient, opened: Open) -> None:
    body = {"input": "Hi", "text": {"verbosity": "low"}, "reasoning": {"mode": "pro"}, "prompt_cache_retention": "24h"}
    http = await talker.post(PATH, json=body)
    assert http.headers["x-llamafw-ignored-fields"] == "prompt_cache_retention, text.verbosity, reasoning.mode"
    assert "x-llamafw-ignored-fields" not in (await talker.post(PATH, json={"input": "Hi"})).headers

    async with opened(scores=answering("Hello"), n_ctx=512, strict_fields=True) as client:
        assert (await refused(client, text={"verbosity": "low"}))[0] == "text.verbosity"


async def test_instructions_alone_are_a_prompt(opened: Open) -> None:
    async with opened(scores=answering("Hello"), template=TEMPLATE, n_ctx=512, slots=True) as client:
        assert await prompt_of(client, input=[], instructions="Be brief.") == "s:Be brief.;a:"


async def test_content_of_an_answer_may_be_null(opened: Open) -> None:
    items = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}, {"role": "user", "content": "r"}]
    async with opened(scores=answering("Hello"), template=TEMPLATE, n_ctx=512, slots=True) as client:
        assert await prompt_of(client, input=items) == "u:q;a:;u:r;a:"


async def test_long_prompts_are_400_or_truncated(talker: httpx.AsyncClient) -> None:
    long = "x" * 5000
    for stream in (False, True):
        http = await talker.post(PATH, json={"input": long, "stream": stream})
        error = http.json()["error"]
        assert (error["type"], error["param"], error["n_ctx"]) == ("exceed_context_size_error", "input", 512)
        response = await create(talker, input=long, truncation="auto", stream=stream, max_output_tokens=3)
        assert response["truncated"] is True


# --- the conversation


async def test_conversation_is_rendered_by_the_template(opened: Open) -> None:
    async with opened(scores=answering("Hello"), template=TEMPLATE, n_ctx=512, slots=True) as client:
        items = [
            {"role": "user", "content": "q"},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "1", "name": "weather", "arguments": '{"city": "Ely"}'},
            {"type": "function_call_output", "call_id": "1", "output": "rain"},
        ]
        prompt = await prompt_of(client, instructions="i", input=items, tools=[WEATHER])
        tool = {"type": "function", "function": {name: WEATHER[name] for name in ("name", "parameters")}}
        assert prompt == f'[{json.dumps(tool)}]s:i;u:q;a:<hm>weather({{"city": "Ely"}});t:rain;a:'

        first = await create(client, instructions="i", input="q")
        prompt = await prompt_of(client, previous_response_id=first["id"], input="r", instructions="j")
        assert prompt == "s:j;u:q;a:Hello;u:r;a:"
        assert await prompt_of(client, previous_response_id=first["id"]) == "u:q;a:Hello;a:"
        assert await prompt_of(client, input=[{"id": first["output"][0]["id"]}]) == "a:Hello;a:"
        assert await prompt_of(client, input=first["output"]) == "a:Hello;a:"
        assert await prompt_of(client, input="q", chat_template_kwargs={"x": 1}) == "u:q;a:"


async def test_conversations_may_branch(talker: httpx.AsyncClient) -> None:
    root = await create(talker)
    left, right = [await create(talker, previous_response_id=root["id"], input=text) for text in "lr"]
    items = {id: (await talker.get(f"{PATH}/{id}/input_items")).json()["data"] for id in (left["id"], right["id"])}
    assert items[left["id"]][0]["content"][0]["text"] == "l"
    assert items[right["id"]][0]["content"][0]["text"] == "r"
    assert items[left["id"]][1:] == items[right["id"]][1:]


# --- stored responses


async def test_stored_responses_are_retrieved_and_deleted(talker: httpx.AsyncClient) -> None:
    client = sdk(talker)
    for stream in (False, True):
        created = await create(talker, metadata={"a": "b"}, stream=stream)
        found = await client.responses.retrieve(created["id"], include=["message.output_text.logprobs"])
        assert found.to_dict() == created

        assert (await talker.delete(f"{PATH}/{created['id']}")).json() == {
            "id": created["id"],
            "object": "response",
            "deleted": True,
        }
        with pytest.raises(NotFoundError) as caught:
            await client.responses.retrieve(created["id"])
        assert caught.value.param == "response_id"
        with pytest.raises(BadRequestError):
            await client.responses.create(model="any", input="x", previous_response_id=created["id"])


async def test_store_false_stores_nothing(talker: httpx.AsyncClient) -> None:
    response = await create(talker, store=False)
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        assert (await talker.request(method, f"{PATH}/{response['id']}{path}")).status_code == 404


async def test_number_of_responses_is_limited(opened: Open) -> None:
    async with opened(scores=answering("Hello"), n_ctx=512, extra={"responses_max": 2}) as client:
        ids = [(await create(client))["id"] for _ in range(3)]
        assert [(await client.get(f"{PATH}/{id}")).status_code for id in ids] == [404, 200, 200]
    async with opened(scores=answering("Hello"), n_ctx=512, extra={"responses_max": 0}) as client:
        response = await create(client)
        assert response["store"] is False
        assert (await client.get(f"{PATH}/{response['id']}")).status_code == 404
        assert "--responses-max" in (await refused(client, background=True))[1]


async def test_input_items_are_listed_in_pages(talker: httpx.AsyncClient) -> None:
    client = sdk(talker)
    items: Any = [{"role": "user", "content": f"{i}"} for i in range(7)]
    response = await create(talker, input=items)
    for order, expected in (("asc", "0123456"), ("desc", "6543210")):
        page = await client.responses.input_items.list(response["id"], order=order, limit=3)  # type: ignore[arg-type]  # one of both
        assert page.has_more
        found = [item.to_dict() async for item in page]
        texts: list[Any] = [item["content"] for item in found]
        assert "".join(text[0]["text"] for text in texts) == expected
    http = await talker.get(f"{PATH}/{response['id']}/input_items", params={"after": "msg_x"})
    assert (http.status_code, http.json()["error"]["param"]) == (400, "after")
    assert (await talker.get(f"{PATH}/{response['id']}/input_items?limit=101")).status_code == 400


async def test_input_tokens_are_those_of_the_response(talker: httpx.AsyncClient) -> None:
    client = sdk(talker)
    first = await create(talker, instructions="Be brief.", tools=[WEATHER])
    tools: Any = [WEATHER]
    counted = await client.responses.input_tokens.count(model="any", instructions="Be brief.", input="Hi", tools=tools)
    assert counted.input_tokens == first["usage"]["input_tokens"]
    second = await create(talker, previous_response_id=first["id"], input="x")
    counted = await client.responses.input_tokens.count(previous_response_id=first["id"], input="x")
    assert counted.input_tokens == second["usage"]["input_tokens"]
    assert (await talker.post(f"{PATH}/input_tokens", json={})).status_code == 400


async def test_users_do_not_see_each_others_responses(opened: Open) -> None:
    async with opened(scores=answering("Hello"), n_ctx=512, api_key=("one", "two")) as client:
        assert (await client.post(PATH, json={"input": "Hi"})).status_code == 401
        one, two = sdk(client, "one"), sdk(client, "two")
        mine = await one.responses.create(model="any", input="secret")
        running = await one.responses.create(model="any", input="secret", background=True)
        for id in (mine.id, running.id):
            assert (await one.responses.retrieve(id)).id == id
            for attempt in (
                two.responses.retrieve(id),
                two.responses.delete(id),
                two.responses.cancel(id),
                two.responses.input_items.list(id),
            ):
                with pytest.raises(NotFoundError):
                    await attempt
            with pytest.raises(BadRequestError) as caught:
                await two.responses.create(model="any", input="x", previous_response_id=id)
            assert caught.value.param == "previous_response_id"
        with pytest.raises(BadRequestError):
            await two.responses.create(model="any", input=[{"type": "item_reference", "id": mine.output[0].id or ""}])
        assert (await one.responses.create(model="any", input="x", previous_response_id=mine.id)).output_text == "Hello"
