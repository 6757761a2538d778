"""Send the items of an async iterator as lines of JSON (NDJSON).

The format is described at https://github.com/ndjson/ndjson-spec.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response

from llamafw.server.responses import to_json_line
from llamafw.server.sse import EventStream, OnError, error_event


def json_lines(items: AsyncIterator[Any], *, on_error: OnError = error_event) -> Response:
    """Return a response that sends each item of ``items`` as a line of JSON as soon as it is available.

    The response starts with the first line, or after a second. An exception before that becomes an ordinary HTTP error;
    a later one becomes the last line. If the client disconnects, the iterator is closed.

    Parameters
    ----------
    items : async iterator
        Yields values that orjson can write.
    on_error : callable, optional
        Returns the lines that end the stream after an exception. By default, it is one line ``{"error": {...}}``.
    """
    return JSONLines(items, on_error=on_error)


class JSONLines(EventStream):
    """A response that consists of lines of JSON."""

    start_headers = [(b"content-type", b"application/x-ndjson"), *EventStream.start_headers[1:]]
    ping = b""

    def encode(self, item: Any) -> bytes:
        """Return an item as a line."""
        return to_json_line(item) + b"\n"
