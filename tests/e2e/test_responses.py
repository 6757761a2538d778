"""The Responses API with the ``openai`` client and the default model, in a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import NotFoundError, OpenAI
from openai.types.responses import Response
from pydantic import BaseModel

from llamafw.testing.process import ServerProcess, running_server
from llamafw_plugins.responses.input_items import encode_reasoning
from support.responses import check_events

ASK = "What is the capital of France?"
N_TOOLS = 20
pytestmark = pytest.mark.inventory("T-03", "T-07")


class City(BaseModel):
    name: str
    is_capital: bool


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.02)
    pytest.fail("the condition has not become true")


def is_idle(http: httpx.Client) -> bool:
    return not any(slot["is_processing"] for slot in http.get("/slots").json())


@pytest.mark.client("openai", "responses.create")
def test_create_answers_a_question(openai: OpenAI) -> None:
    response = openai.responses.create(model="any", input=ASK, max_output_tokens=16, temperature=0)
    assert "Paris" in response.output_text
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


@pytest.mark.client("openai", "responses.create", "responses.retrieve")
def test_stream_has_the_same_text_and_valid_events(openai: OpenAI) -> None:
    whole = openai.responses.create(model="any", input=ASK, max_output_tokens=16, temperature=0, store=False)
    stream = openai.responses.create(model="any", input=ASK, max_output_tokens=16, temperature=0, stream=True)
    final = check_events([event.to_dict() for event in stream])
    assert Response.model_validate(final).output_text == whole.output_text
    assert openai.responses.retrieve(final["id"]).to_dict() == final


@pytest.mark.client("openai", "responses.stream")
def test_stream_helper_accumulates_the_response(openai: OpenAI) -> None:
    with openai.responses.stream(model="any", input="Say hello.", max_output_tokens=200, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text != ""


@pytest.mark.client("openai", "responses.parse", "responses.stream")
def test_parse_returns_an_object(openai: OpenAI) -> None:
    parsed = openai.responses.parse(
        model="any", input="Describe Paris.", text_format=City, max_output_tokens=128, temperature=0
    )
    assert isinstance(parsed.output_parsed, City)
    with openai.responses.stream(
        model="any", input="Describe Paris.", text_format=City, max_output_tokens=128, temperature=0
    ) as stream:
        assert stream.get_final_response().output_parsed == parsed.output_parsed


@pytest.mark.client("openai", "responses.create", "responses.input_items.list")
def test_previous_response_is_taken_from_the_cache(openai: OpenAI) -> None:
    first = openai.responses.create(model="any", input=ASK * 10, max_output_tokens=16, temperature=0)
    second = openai.responses.create(
        model="any", input="And Italy?", previous_response_id=first.id, max_output_tokens=8, temperature=0
    )
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens - 8

    items = [item.to_dict() for item in openai.responses.input_items.list(second.id, order="asc")]
    assert [item.get("role") for item in items] == ["user", "assistant", "user"]
    replayed = openai.responses.create(model="any", input=items, max_output_tokens=8, temperature=0)  # type: ignore[arg-type]  # plain dicts
    assert replayed.output_text == second.output_text


@pytest.mark.client("openai", "responses.retrieve", "responses.delete", "responses.input_tokens.count")
def test_stored_responses_are_retrieved_and_deleted(openai: OpenAI) -> None:
    response = openai.responses.create(model="any", input="Hi", max_output_tokens=4, metadata={"a": "b"})
    assert openai.responses.retrieve(response.id).to_dict() == response.to_dict()
    counted = openai.responses.input_tokens.count(model="any", input="Hi")
    assert response.usage is not None
    assert counted.input_tokens == response.usage.input_tokens
    openai.responses.delete(response.id)
    with pytest.raises(NotFoundError):
        openai.responses.retrieve(response.id)


@pytest.mark.client("openai", "responses.create", "responses.retrieve", "responses.stream")
def test_background_response_outlives_its_client(openai: OpenAI, http: httpx.Client) -> None:
    stream = openai.responses.create(
        model="any",
        input="Count from one to thirty.",
        background=True,
        stream=True,
        temperature=0,
        max_output_tokens=60,
        extra_body={"ignore_eos": True},
    )
    seen = [event.to_dict() for event, _ in zip(stream, range(6), strict=False)]
    stream.close()
    id: str = seen[0]["response"]["id"]  # type: ignore[index]  # the first event has the response

    wait_until(lambda: openai.responses.retrieve(id).status == "incomplete")
    with openai.responses.stream(response_id=id, starting_after=5) as resumed:
        numbers = [event.sequence_number for event in resumed]
    assert numbers[0] == 6
    events = http.get(f"/v1/responses/{id}", params={"stream": "true"}).text
    assert events.count("output_text.delta\n") > 10


@pytest.mark.client("openai", "responses.cancel")
def test_cancel_frees_the_slot(openai: OpenAI, http: httpx.Client) -> None:
    response = openai.responses.create(
        model="any", input="Count.", background=True, extra_body={"ignore_eos": True, "n_predict": -1}
    )
    wait_until(lambda: bool(openai.responses.retrieve(response.id).output_text))
    cancelled = openai.responses.cancel(response.id)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text
    wait_until(lambda: is_idle(http))


@pytest.mark.parametrize("stream", [False, True])
def test_disconnect_cancels_the_generation(server: ServerProcess, http: httpx.Client, stream: bool) -> None:
    body = {"input": "Count.", "ignore_eos": True, "n_predict": -1, "stream": stream}
    if stream:
        with httpx.stream("POST", f"{server.url}/v1/responses", json=body, timeout=60) as response:
            lines = response.iter_lines()  # kept: the end of the iterator closes the connection
            next(lines)
            wait_until(lambda: not is_idle(http))
    else:
        with httpx.Client(timeout=httpx.Timeout(60, read=1)) as client, pytest.raises(httpx.ReadTimeout):
            client.post(f"{server.url}/v1/responses", json=body)
    wait_until(lambda: is_idle(http))


# --- a server of its own


@pytest.fixture(scope="module")
def large(real_model: Path) -> Iterator[ServerProcess]:
    """A server with room for long prompts."""
    with running_server(real_model, "-np", "2", "-c", "16384", "--validate-responses") as running:
        yield running


def codex_tools() -> list[dict[str, Any]]:
    """Return the tools of a coding agent."""
    parameters = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "A path in the workspace.", "maxLength": 16},
            "recursive": {"type": "boolean"},
        },
        "required": ["path", "recursive"],
        "additionalProperties": False,
    }
    return [
        {
            "type": "function",
            "name": f"tool_{i}",
            "description": f"Does the task number {i} of the workspace.",
            "strict": i % 2 == 0,
            "parameters": parameters,
        }
        for i in range(N_TOOLS)
    ]


@pytest.mark.client("openai", "responses.create")
@pytest.mark.client("Codex", "POST /v1/responses")
def test_session_of_a_coding_agent_works(large: ServerProcess) -> None:
    """As Codex does it: nothing is stored, streams, reasoning and calls are sent back, and the prompt is long."""
    instructions = "You are a coding agent. Use the tools. " + "Follow the rules of the workspace exactly. " * 60
    reasoning = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "Look first."}],
        "encrypted_content": encode_reasoning("I should look at the files first."),
    }
    search = {"type": "web_search", "external_web_access": False}
    files = {"type": "namespace", "name": "mcp__files", "description": "Files.", "tools": codex_tools()[:1]}
    tools: Any = [*codex_tools(), search, files]
    conversation: list[Any] = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandbox: read-only."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List the files in src."}]},
        reasoning,
    ]

    with OpenAI(base_url=f"{large.url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        n_cached = []
        for turn in range(3):
            stream = client.responses.create(
                model="codex",
                instructions=instructions,
                input=conversation,
                tools=tools,
                tool_choice="required" if turn < 2 else "auto",
                parallel_tool_calls=True,
                reasoning={"effort": "medium", "summary": "auto"},
                store=False,
                stream=True,
                include=["reasoning.encrypted_content"],
                prompt_cache_key="session",
                temperature=0,
                max_output_tokens=160,
            )
            final = check_events([event.to_dict() for event in stream])
            n_cached.append(final["usage"]["input_tokens_details"]["cached_tokens"])
            calls = [
                item for item in final["output"] if item["type"] == "function_call" and item["status"] == "completed"
            ]
            if turn < 2:
                assert calls
            for call in calls:
                assert call["name"] in {tool["name"] for tool in codex_tools()}
                assert set(json.loads(call["arguments"])) == {"path", "recursive"}
            conversation += final["output"]
            conversation += [
                {"type": "function_call_output", "call_id": call["call_id"], "output": "main.py\nutil.py"}
                for call in calls
            ]
        assert n_cached[1] > 500, "the second turn evaluates the prompt again"
        assert n_cached[2] > n_cached[1]
        with pytest.raises(NotFoundError):
            client.responses.retrieve(final["id"])


@pytest.mark.parametrize("background", [False, True])
def test_stop_of_the_server_lets_streams_finish(real_model: Path, background: bool) -> None:
    body = {
        "input": "Count.",
        "ignore_eos": True,
        "max_output_tokens": 48,
        "stream": True,
        "background": background,
        "temperature": 0,
    }
    with running_server(real_model, "-np", "1", "-c", "1024", "--timeout-graceful-shutdown", "60") as server:
        text = ""
        with httpx.stream("POST", f"{server.url}/v1/responses", json=body, timeout=60) as response:
            for line in response.iter_lines():
                if not text and "output_text.delta" in line:
                    server.process.terminate()
                text += line + "\n" if "output_text.delta" in line or text else ""
        assert '"type":"response.incomplete"' in text
        assert text.count("event: response.output_text.delta") > 30
        assert server.process.wait(60) == 0
