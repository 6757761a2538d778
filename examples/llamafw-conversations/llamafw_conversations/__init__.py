"""Conversations kept on the server, in SQLite, and continued by one message at a time. Operations and schemas:
``openapi.yaml``.

A turn is written when it is whole: the question and its answer in one transaction. If the client goes, or the model
fails, nothing has happened. Turns of one conversation follow one another.
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
    """There is no such conversation."""

    status = 404
    type = "not_found_error"


class Conversations:
    """The endpoints."""

    def __init__(self, app: App, store: Store) -> None:
        self.app, self.store = app, store
        self.locks: WeakValueDictionary[str, asyncio.Lock] = (
            WeakValueDictionary()
        )  # one per conversation that is in use

    async def create(self, call: Call) -> Any:
        """POST /v1/conversations"""
        return await self.store.create(call.body["title"], call.body["messages"])

    async def browse(self, call: Call) -> Any:
        """GET /v1/conversations"""
        rows = await self.store.list(call.query.get("limit", 20), call.query.get("before"))
        return {"object": "list", "data": rows}

    async def get(self, call: Call) -> Any:
        """GET /v1/conversations/{id}"""
        return self.there(await self.store.get(call.path["id"]), call)

    async def delete(self, call: Call) -> Any:
        """DELETE /v1/conversations/{id}"""
        async with self.lock(call):
            self.there(await self.store.delete(call.path["id"]), call)
        return {"id": call.path["id"], "deleted": True}

    async def append(self, call: Call) -> Any:
        """POST /v1/conversations/{id}/messages"""
        async with self.lock(call):
            return self.there(await self.store.append(call.path["id"], [call.body]), call)

    async def complete(self, call: Call) -> Any:
        """POST /v1/conversations/{id}/completions: a message, and the model's answer to it."""
        events = self.turn(call)
        if call.body["stream"]:
            return event_stream(events)
        return [event async for event in events][-1]

    async def turn(self, call: Call) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the pieces of an answer, if they are wanted, and at last the whole message; then it has been
        written."""
        async with self.lock(call):
            conversation = self.there(await self.store.get(call.path["id"]), call)
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
            self.there(await self.store.append(call.path["id"], [question, answer]), call)
            usage = {"prompt_tokens": finish.n_prompt, "completion_tokens": finish.n_predicted}
            yield {"message": answer, "usage": usage, "stop_type": finish.stop_type}

    def prepare(self, body: Mapping[str, Any], messages: list[Mapping[str, Any]]) -> GenerateRequest:
        """Return the request for an answer to ``messages``. On a worker thread: templates may take their time."""
        loaded = self.app.loaded
        tokens = loaded.tokenizer.encode(loaded.chat.render(messages))
        if loaded.tokenizer.add_bos and loaded.tokenizer.bos is not None and tokens[:1] != [loaded.tokenizer.bos]:
            tokens.insert(0, loaded.tokenizer.bos)
        return self.app.prepare(body, tokens)

    def lock(self, call: Call) -> asyncio.Lock:
        """Return the lock of the conversation that the call is about."""
        return self.locks.setdefault(call.path["id"], asyncio.Lock())

    def there(self, found: Any, call: Call) -> Any:
        """Return what the store has found; NotFound if that is nothing."""
        if not found:
            raise NotFound(f"there is no conversation {call.path['id']!r}", param="id")
        return found


class Plugin:
    """Opens the store with the server and closes it with it."""

    requires_api = ">=1.0,<2"

    def __init__(self) -> None:
        self.store: Store | None = None

    @hookimpl
    def add_options(self, parser: ArgumentParser) -> None:
        """Add the flag."""
        parser.add_argument(
            "--conversations", metavar="FILE", help="keep conversations in this SQLite file (default: in memory)"
        )

    @hookimpl
    def extend_openapi(self) -> Mapping[str, Any]:
        """Return the operations."""
        import yaml

        fragment: dict[str, Any] = yaml.safe_load(
            files("llamafw_conversations").joinpath("openapi.yaml").read_text("utf-8")
        )
        return fragment

    @hookimpl
    def register_endpoints(self, register: Register, app: App) -> None:
        """Bind them."""
        from llamafw_conversations.store import Store

        self.store = Store(app.settings.extra.get("conversations") or ":memory:")
        endpoints = Conversations(app, self.store)
        for name, endpoint in (
            ("createConversation", endpoints.create),
            ("listConversations", endpoints.browse),
            ("getConversation", endpoints.get),
            ("deleteConversation", endpoints.delete),
            ("appendMessage", endpoints.append),
            ("completeConversation", endpoints.complete),
        ):
            register(name, endpoint)

    @hookimpl
    def server_stopping(self, app: App) -> None:
        """Close the file."""
        if self.store is not None:
            self.store.close()
