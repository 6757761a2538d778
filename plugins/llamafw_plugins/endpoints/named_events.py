"""Name the events of a stream by their type, as Anthropic's API and OpenAI's Responses API do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from llamafw import ServerSentEvent
from llamafw_plugins.endpoints.response_json import JSON


def name_event(event: JSON) -> ServerSentEvent:
    """Return an event with its type as its name."""
    return ServerSentEvent(event, event=event["type"])


async def named(events: AsyncGenerator[JSON, None]) -> AsyncGenerator[ServerSentEvent, None]:
    """Yield the events with their types as their names."""
    async with aclosing(events):
        async for event in events:
            yield name_event(event)
