"""The operations below /v1/responses: OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, replace
from typing import Any

from llamafw import App, Call, Delta, Problem, RequestError, ServerSentEvent, event_stream
from llamafw_plugins.endpoints.chat_requests import ChatRequest, prepare_chat
from llamafw_plugins.endpoints.named_events import name_event, named
from llamafw_plugins.endpoints.openai_response import is_cut
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.responses.background import BackgroundRun
from llamafw_plugins.responses.builder import FINISHED, BuilderOptions, ResponseBuilder
from llamafw_plugins.responses.chat_body import chat_body, errors_about, refuse_fields, report_ignored
from llamafw_plugins.responses.function_tools import FunctionTools, check_choice, read_tools
from llamafw_plugins.responses.input_items import InputItems, read_input, with_encoded_reasoning
from llamafw_plugins.responses.messages import Messages, read_messages
from llamafw_plugins.responses.response_head import response_head, summary_kind
from llamafw_plugins.responses.store import ResponseStore, StoredResponse

ENCODED_REASONING = "reasoning.encrypted_content"  # a value of `include`


class ResponseNotFound(RequestError):
    """The response does not exist, or belongs to another user."""

    status = 404
    type = "not_found_error"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that is ready to run."""

    previous: StoredResponse | None  # the response that is continued
    own_input: Sequence[JSON]  # the items of the request
    conversation: Messages
    tools: FunctionTools
    chat: ChatRequest

    def errors(self) -> AbstractContextManager[None]:
        """Make errors about the body of the chat completion errors about the request."""
        return errors_about(self.conversation, self.tools)


class ResponseEndpoints:
    """The operations of the Responses API.

    Parameters
    ----------
    app : App
        The server.
    store : ResponseStore
        Where responses are kept.
    """

    def __init__(self, app: App, store: ResponseStore) -> None:
        self.app, self.store = app, store

    async def create(self, call: Call) -> Any:
        """Answer the input, at once, as a stream or in the background."""
        body = call.body
        is_stored, in_background = self._is_stored(body), bool(body.get("background"))
        prepared = await self._prepare(call)
        request = prepared.chat.requests[0]
        if in_background:  # its progress shows when it no longer waits
            request = replace(request, return_progress=True)

        loaded = self.app.loaded
        head = response_head(body, request, loaded, prepared.tools, store=is_stored)
        options = builder_options(body, prepared.tools, logprobs=request.logprobs)
        builder = ResponseBuilder(head, loaded.tokenizer, options)
        with prepared.errors():
            deltas = loaded.engine.generate(request)
        stored = StoredResponse(owner_of(call), prepared.own_input, prepared.previous)
        answer = Answer(builder, prepared, deltas, with_progress=bool(body.get("return_progress")))

        if in_background:
            events = answer.events()
            stored.run = run = BackgroundRun(builder, events, ended=lambda: self.store.update(stored))
            self.store.add(stored)
            return event_stream(named(run.follow())) if body.get("stream") else run.response

        def keep() -> None:
            if is_stored:
                stored.finished = builder.response
                self.store.add(stored)

        if body.get("stream"):

            def failed(problem: Problem) -> Iterator[ServerSentEvent]:
                yield from map(name_event, builder.fail(problem))
                keep()

            # an invalid grammar is an error response, so the stream must not begin before it has been compiled
            events = answer.stream(keep, begins_at_once=request.grammar is None)
            return event_stream(named(events), on_error=failed)

        async with aclosing(answer.events()) as events:
            async for _ in events:
                pass
        keep()
        return builder.response

    async def count(self, call: Call) -> JSON:
        """Return the number of tokens of the prompt that `create` would make."""
        prepared = await self._prepare(call)
        return {"object": "response.input_tokens", "input_tokens": len(prepared.chat.requests[0].prompt)}

    async def get(self, call: Call) -> Any:
        """Return a stored response, or the events of one that runs or ran in the background."""
        stored, query = self._find(call), call.query
        if query.get("stream"):
            if stored.run is None:
                message = "the response cannot be streamed, because it was not created with background: true"
                raise RequestError(message, param="stream")
            first = query.get("starting_after", -1) + 1
            return event_stream(named(stored.run.follow(first)))
        if "starting_after" in query:
            raise RequestError("starting_after needs stream=true", param="starting_after")

        response = stored.response
        if wants_encoded_reasoning(query):
            response = {**response, "output": [with_encoded_reasoning(item) for item in response["output"]]}
        return response

    async def delete(self, call: Call) -> JSON:
        """Forget a response; if it still runs, it ends."""
        stored, id = self._find(call), call.path["response_id"]
        self.store.remove(id)
        if stored.run is not None and stored.is_running:
            await stored.run.cancel()
        return {"id": id, "object": "response", "deleted": True}

    async def cancel(self, call: Call) -> JSON:
        """End a response that runs in the background; return it."""
        stored = self._find(call)
        if stored.run is None:
            raise RequestError("only responses that were created with background: true can be cancelled")
        if stored.is_running:
            await stored.run.cancel()
        return stored.response

    async def list_input(self, call: Call) -> JSON:
        """Return a page of the items that a response was made from."""
        items, query = self._find(call).input(), call.query
        if query.get("order", "desc") == "desc":
            items = items[::-1]
        if (after := query.get("after")) is not None:
            places = [i for i, item in enumerate(items) if item["id"] == after]
            if not places:
                raise RequestError(f"the response has no input item {after[:80]!r}", param="after")
            items = items[places[0] + 1 :]

        limit = query.get("limit", 20)
        page = [with_encoded_reasoning(item) if wants_encoded_reasoning(query) else item for item in items[:limit]]
        ids = [item["id"] for item in page] or [""]
        return {
            "object": "list",
            "data": page,
            "first_id": ids[0],
            "last_id": ids[-1],
            "has_more": len(items) > limit,
        }

    # --- helpers

    def _is_stored(self, body: JSON) -> bool:
        """Return whether a response is stored; RequestError if it cannot run in the background without that."""
        is_wanted = body.get("store") is not False
        if body.get("background") and not is_wanted:
            raise RequestError("background: true needs store: true", param="background")
        if body.get("background") and not self.store.max_responses:
            message = "background: true is not supported, because this server stores no responses (--responses-max 0)"
            raise RequestError(message, param="background")
        return is_wanted and self.store.max_responses > 0

    async def _prepare(self, call: Call) -> Prepared:
        """Return what a body asks for; RequestError names the field that is wrong."""
        body, owner = call.body, owner_of(call)
        refuse_fields(body)
        tools = read_tools(body.get("tools") or ())
        check_choice(body.get("tool_choice"))
        report_ignored(call, self.app, tools)
        previous, items = self._previous(body, owner), InputItems()
        for item in [] if previous is None else previous.history():
            items.add(item, "previous_response_id")
        n_before = len(items.items)
        if body.get("input") is not None:
            read_input(body["input"], lambda id: self.store.find_item(id, owner), items)
        if not items.items and not body.get("instructions"):
            raise RequestError("input or previous_response_id must be provided", param="input")

        conversation = read_messages(body.get("instructions"), items)
        with errors_about(conversation, tools):
            chat = await prepare_chat(self.app, chat_body(body, conversation, tools))
        return Prepared(previous, items.items[n_before:], conversation, tools, chat)

    def _previous(self, body: JSON, owner: str | None) -> StoredResponse | None:
        id = body.get("previous_response_id")
        if id is None:
            return None
        stored = self.store.get(id, owner)
        if stored is None:
            message = f"the previous response {id[:80]!r} does not exist or was deleted; send its items in input"
            raise RequestError(message, param="previous_response_id")
        if stored.is_running:
            message = "the previous response has not ended yet; wait for its end, or cancel it"
            raise RequestError(message, param="previous_response_id")
        return stored

    def _find(self, call: Call) -> StoredResponse:
        id = call.path["response_id"]
        stored = self.store.get(id, owner_of(call))
        if stored is None:
            raise ResponseNotFound(f"the response {id[:80]!r} does not exist", param="response_id")
        return stored


class Answer:
    """Turns what the engine generates into the events of a response."""

    def __init__(
        self,
        builder: ResponseBuilder,
        prepared: Prepared,
        deltas: AsyncGenerator[Delta, None],
        *,
        with_progress: bool,
    ) -> None:
        self._builder, self._prepared, self._deltas = builder, prepared, deltas
        self._reader, self._with_progress = prepared.chat.reader(), with_progress

    async def events(self) -> AsyncGenerator[JSON, None]:
        """Yield the events; those that begin the response only if they were not yielded before."""
        builder = self._builder
        with self._prepared.errors():
            async with aclosing(self._deltas) as deltas:
                async for delta in deltas:
                    for event in builder.go_on():
                        yield event
                    if delta.progress and not self._with_progress:
                        continue
                    answer = self._reader.read(delta.text, last=delta.finish is not None, cut=is_cut(delta.finish))
                    for event in builder.feed(delta, answer):
                        yield event

    async def stream(self, ended: Callable[[], None], *, begins_at_once: bool) -> AsyncGenerator[JSON, None]:
        """Yield all events.

        Parameters
        ----------
        ended : callable
            Called when the response has ended, before the client learns of it.
        begins_at_once : bool
            Whether the stream begins before the model's first word.
        """
        if begins_at_once:
            for event in self._builder.start():
                yield event
        async with aclosing(self.events()) as events:
            async for event in events:
                if self._builder.status in FINISHED:
                    ended()
                yield event


def builder_options(body: JSON, tools: FunctionTools, *, logprobs: bool) -> BuilderOptions:
    """Return what a request wants to see."""
    return BuilderOptions(
        logprobs=logprobs,
        tokens=bool(body.get("return_tokens")),
        reasoning_as_summary=summary_kind(body) is not None,
        encoded_reasoning=ENCODED_REASONING in (body.get("include") or ()),
        obfuscation=bool((body.get("stream_options") or {}).get("include_obfuscation")),
        namespaces=tools.namespaces,
    )


def wants_encoded_reasoning(query: Any) -> bool:
    """Return whether a query string asks for reasoning in ``encrypted_content``."""
    return ENCODED_REASONING in (*query.get("include", ()), *query.get("include[]", ()))


def owner_of(call: Call) -> str | None:
    """Return the name of a request's user; None if the server does not know its users."""
    return None if call.user is None else call.user.name
