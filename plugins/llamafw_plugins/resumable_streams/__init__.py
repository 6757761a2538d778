"""Streams that go on when their client disconnects, and that can be read again: `GET /v1/stream`.

A request asks for this with the header ``X-Conversation-Id``. Without the header, nothing changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response, StreamingResponse

from llamafw import App, Call, Register, RequestError, hookimpl
from llamafw_plugins.fragments import read_fragment
from llamafw_plugins.resumable_streams.buffers import StreamBuffers, user_name

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from llamafw_plugins.resumable_streams.buffers import StreamBuffer


class StreamNotFound(RequestError):
    """The server has no stream with this id, or no longer."""

    status = 404
    type = "not_found_error"


class ResumableStreams:
    """The plugin and its operations `readStream`, `stopStream` and `lookUpStreams`."""

    def __init__(self) -> None:
        self._buffers = StreamBuffers()

    @hookimpl
    def extend_openapi(self) -> dict[str, Any]:
        """Return the operations."""
        return read_fragment(__name__)

    @hookimpl
    def register_endpoints(self, register: Register, app: App) -> None:
        """Register the operations."""
        register("readStream", self.read)
        register("stopStream", self.stop)
        register("lookUpStreams", self.look_up)

    @hookimpl
    def wrap_asgi(self, asgi: ASGIApp, app: App) -> ASGIApp | None:
        """Keep the streams of requests with the header."""
        from llamafw_plugins.resumable_streams.middleware import ResumableMiddleware

        return ResumableMiddleware(asgi, self._buffers)

    @hookimpl
    def server_stopping(self, app: App) -> None:
        """End all streams."""
        self._buffers.stop_all()

    async def read(self, call: Call) -> Response:
        """Send a stream again, from a byte on, and go on with it until it ends."""
        buffer = self._find(call)
        start = int(call.query.get("from") or 0)
        if start < buffer.n_dropped:
            raise RequestError(f"the first {buffer.n_dropped} bytes of the stream are no longer kept", param="from")
        if start > buffer.n_total:
            raise RequestError(f"the stream has only {buffer.n_total} bytes so far", param="from")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(buffer.read(start), media_type="text/event-stream", headers=headers)

    async def stop(self, call: Call) -> Response:
        """End a stream and its generation; without such a stream, do nothing."""
        buffer = self._buffers.get(user_name(call.user), call.query["conv_id"])
        if buffer is not None:
            self._buffers.remove(buffer)
        return Response(status_code=204)

    async def look_up(self, call: Call) -> list[dict[str, Any]]:
        """Return the state of the streams that the request names, if they exist."""
        user = user_name(call.user)
        found = (self._buffers.get(user, id) for id in dict.fromkeys(call.body["conversation_ids"]))
        return [
            {
                "conversation_id": buffer.id,
                "is_done": buffer.done,
                "total_bytes": buffer.n_total,
                "started_at": buffer.started_at,
                "completed_at": buffer.completed_at,
            }
            for buffer in found
            if buffer is not None
        ]

    def _find(self, call: Call) -> StreamBuffer:
        buffer = self._buffers.get(user_name(call.user), call.query["conv_id"])
        if buffer is None:
            raise StreamNotFound("the stream does not exist, or has expired", param="conv_id")
        return buffer
