"""Store conversations on the server, in SQLite, and continue them one message at a time.

``openapi.yaml`` defines the operations and their schemas. A turn (the question and its answer) is stored in one
transaction when the answer is complete. If the client disconnects or the model fails, nothing is stored. Turns of one
conversation run one after another.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from llamafw import App, Call, Finish, GenerateRequest, Register, RequestError, event_stream, hookimpl

if TYPE_CHECKING:
    from llamafw_conversations.store import Store


class NotFound(RequestError):
    """The conversation does not exist."""

    status = 404
    type = "not_found_error"


class Conversations:
    """The endpoints of all conversation operations."""

    def __init__(self, app: App, store: Store) -> None:
        self.app, self.store = app, store
        # One lock per conversation; weak values drop the locks that no request holds.
        self.locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def create(self, call: Call) -> Any:
        """Answer ``POST /v1/conversations``."""
        return await self.store.create(call.body["title"], call.body["messages"])

    async def list_conversations(self, call: Call) -> Any:
        """Answer ``GET /v1/conversations``."""
        rows = await self.store.list(call.query.get("limit", 20), call.query.get("before"))
        return {"object": "list", "data": rows}

    async def get(self, call: Call) -> Any:
        """Answer ``GET /v1/conversations/{id}``."""
        return self.found(await self.store.get(call.path["id"]), call)

    async def delete(self, call: Call) -> Any:
        """Answer ``DELETE /v1/conversations/{id}``."""
        async with self.lock(call):
            self.found(await self.store.delete(call.path["id"]), call)
        return {"id": call.path["id"], "deleted": True}

    async def append(self, call: Call) -> Any:
        """Answer ``POST /v1/conversations/{id}/messages``."""
        async with self.lock(call):
            return self.found(await self.store.append(call.path["id"], [call.body]), call)

    async def complete(self, call: Call) -> Any:
        """Answer ``POST /v1/conversations/{id}/completions`` with the model's answer."""
        events = self.turn(call)
        if call.body["stream"]:
            return event_stream(events)
        return [event async for event in events][-1]

    async def turn(self, call: Call) -> AsyncGenerator[dict[str, Any], None]:
        """Generate and store an answer, and yield its events.

        The last event has the whole message. Events before it, one per delta, are only yielded to streaming clients.
        """
        async with self.lock(call):
            conversation = self.found(await self.store.get(call.path["id"]), call)
            question = {"role": "user", "content": call.body["content"]}
            request = await asyncio.to_thread(self.prepare, call.body, [*conversation["messages"], question])

            text, finish = "", Finish("none")
            async with aclosing(self.app.loaded.engine.generate(request)) as deltas:
                async for delta in deltas:
                    text += delta.text
                    finish = delta.finish or finish
                    if delta.text and call.body["stream"]:
                        yield {"delta": delta.text}

            answer = {"role": "assistant", "content": text}
            self.found(await self.store.append(call.path["id"], [question, answer]), call)
            usage = {"prompt_tokens": finish.n_prompt, "completion_tokens": finish.n_predicted}
            yield {"message": answer, "usage": usage, "stop_type": finish.stop_type}

    def prepare(self, body: Mapping[str, Any], messages: list[Mapping[str, Any]]) -> GenerateRequest:
        """Return the request for an answer to ``messages``.

        Runs on a worker thread, because rendering a chat template can be slow.
        """
        loaded = self.app.loaded
        tokens = loaded.tokenizer.encode(loaded.chat.render(messages))
        if loaded.tokenizer.add_bos and loaded.tokenizer.bos is not None and tokens[:1] != [loaded.tokenizer.bos]:
            tokens.insert(0, loaded.tokenizer.bos)
        return self.app.prepare(body, tokens)

    def lock(self, call: Call) -> asyncio.Lock:
        """Return the lock of the call's conversation."""
        return self.locks.setdefault(call.path["id"], asyncio.Lock())

    def found(self, result: Any, call: Call) -> Any:
        """Return the store's result, or raise `NotFound` if it is empty."""
        if not result:
            raise NotFound(f"conversation {call.path['id']!r} does not exist", param="id")
        return result


class Plugin:
    """The plugin: opens the store at start-up and closes it at shutdown."""

    requires_api = ">=1.0,<2"

    def __init__(self) -> None:
        self.store: Store | None = None

    @hookimpl
    def add_options(self, parser: ArgumentParser) -> None:
        """Add the flag ``--conversations``."""
        parser.add_argument(
            "--conversations", metavar="FILE", help="keep conversations in this SQLite file (default: in memory)"
        )

    @hookimpl
    def extend_openapi(self) -> Mapping[str, Any]:
        """Return the operations as an OpenAPI fragment."""
        import yaml

        fragment: dict[str, Any] = yaml.safe_load(
            files("llamafw_conversations").joinpath("openapi.yaml").read_text("utf-8")
        )
        return fragment

    @hookimpl
    def register_endpoints(self, register: Register, app: App) -> None:
        """Open the store and register the endpoints."""
        from llamafw_conversations.store import Store

        self.store = Store(app.settings.extra.get("conversations") or ":memory:")
        endpoints = Conversations(app, self.store)
        for name, endpoint in (
            ("createConversation", endpoints.create),
            ("listConversations", endpoints.list_conversations),
            ("getConversation", endpoints.get),
            ("deleteConversation", endpoints.delete),
            ("appendMessage", endpoints.append),
            ("completeConversation", endpoints.complete),
        ):
            register(name, endpoint)

    @hookimpl
    def server_stopping(self, app: App) -> None:
        """Close the store."""
        if self.store is not None:
            self.store.close()
