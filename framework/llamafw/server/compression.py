"""Compress responses with gzip, for clients that accept it."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

MIN_BYTES = 2048
"""Size of the smallest response that is compressed. Most completions are smaller, and not worth the time."""

NOT_COMPRESSED = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/x-ndjson")
"""Media types that stay as they are, such as streams: their pieces are too small to become smaller."""

LEVEL = 3
"""Compression level of zlib: higher ones take several times as long, for a few percent."""


class CompressionMiddleware(GZipMiddleware):
    """Starlette's middleware, which leaves out streams; ``gzip;q=0`` in Accept-Encoding means no gzip."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, MIN_BYTES, LEVEL, exclude_content_types=NOT_COMPRESSED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and compress its response."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if "gzip" in Headers(scope=scope).get("accept-encoding", "") and not accepts_gzip(scope):
            scope = {**scope, "headers": [header for header in scope["headers"] if header[0] != b"accept-encoding"]}
        await super().__call__(scope, receive, send)


def accepts_gzip(scope: Scope) -> bool:
    """Return whether the header Accept-Encoding has gzip with a weight above 0 (RFC 9110 §12.5.3)."""
    for coding in Headers(scope=scope).get("accept-encoding", "").split(","):
        name, *parameters = (part.strip().lower() for part in coding.split(";"))
        if name == "gzip":
            weight = next((part.removeprefix("q=") for part in parameters if part.startswith("q=")), "1")
            return weight.rstrip("0") not in ("", "0.")
    return False
