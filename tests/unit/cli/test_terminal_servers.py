"""`llamafw chat --url` with servers of other projects, which have parts of OpenAI's API only."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from llamafw.cli.terminal.client import ApiClient, ApiError
from llamafw.cli.terminal.conversation import Conversation
from llamafw.cli.terminal.loop_thread import LoopThread
from llamafw.cli.terminal.server import ChatServer
from llamafw.cli.terminal.view import PlainView

EVENTS = b'data: {"choices": [{"delta": {"content": "Hello"}}]}\n\ndata: [DONE]\n\n'
DOCUMENT = {  # as FastAPI writes it
    "components": {
        "schemas": {
            "ChatCompletionRequest": {
                "type": "object",
                "properties": {
                    "temperature": {"anyOf": [{"type": "number"}, {"type": "null"}], "title": "Temperature"}
                },
            }
        }
    }
}
UNKNOWN = {
    "vllm": httpx2.Response(404, json={"detail": "Not Found"}),
    "ollama": httpx2.Response(404, text="404 page not found"),
    "lm-studio": httpx2.Response(200, json={"error": "Unexpected endpoint or method."}),
    "web page": httpx2.Response(200, html="<!doctype html>"),
}
"""What each server answers to paths that it does not have."""


@contextlib.contextmanager
def connected(unknown: httpx2.Response, known: dict[str, httpx2.Response]) -> Iterator[tuple[ChatServer, list[Any]]]:
    """Yield a server that knows some paths and refuses requests without a model, and the bodies that it gets."""
    bodies: list[Any] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            bodies.append(json.loads(request.content))
            if "model" not in bodies[-1]:
                return httpx2.Response(400, json={"error": {"message": "model is required"}})
            return httpx2.Response(200, content=EVENTS, headers={"Content-Type": "text/event-stream"})
        return _copy(known.get(request.url.path, unknown))

    loop = LoopThread()
    client = ApiClient("http://127.0.0.1:1", None, httpx2.MockTransport(respond))
    try:
        yield ChatServer(loop, client), bodies
    finally:
        loop.run(client.close())
        loop.close()


def _copy(response: httpx2.Response) -> httpx2.Response:
    return httpx2.Response(response.status_code, headers=response.headers, content=response.content)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("vllm", {"/health": httpx2.Response(200), "/openapi.json": httpx2.Response(200, json=DOCUMENT)}),
        ("ollama", {}),
        ("lm-studio", {}),
        ("web page", {"/health": httpx2.Response(200)}),
    ],
    ids=UNKNOWN,
)
def test_other_servers_answer(name: str, known: dict[str, httpx2.Response]) -> None:
    models = {"/v1/models": httpx2.Response(200, json={"object": "list", "data": [{"id": "their-model"}]})}
    with connected(UNKNOWN[name], known | models) as (server, bodies):
        assert server.model_name == "their-model"
        assert server.fields.parse("temperature", "0.5") == 0.5
        for model in (None, "another"):
            conversation = Conversation(model=model, messages=[{"role": "user", "content": "Hi"}])
            answer = server.answer(conversation, PlainView(), threading.Event())
            assert answer.content == "Hello"
    assert [body["model"] for body in bodies] == ["their-model", "another"]


def test_a_web_site_is_not_an_api() -> None:
    error = pytest.raises(ApiError, match=r"not JSON; is --url the address of an API\?")
    with error, connected(UNKNOWN["web page"], {}):
        pass
