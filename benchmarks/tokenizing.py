"""A plugin for `limits.py` that reports the tokenizer's time in the response header ``X-Tokenize-Ms``.

It counts the time of all requests, so only one request may run at a time.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from llamafw import hookimpl

spent = [0.0]  # milliseconds since the last request


@hookimpl
def model_loaded(model: Any, app: Any) -> None:
    """Measure the tokenizer's ``encode``."""
    tokenizer = app.loaded.tokenizer
    encode = tokenizer.encode

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        try:
            return encode(*args, **kwargs)
        finally:
            spent[0] += (perf_counter() - start) * 1e3

    tokenizer.encode = timed


@hookimpl
def wrap_asgi(asgi: Any, app: Any) -> Any:
    """Add the header."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-tokenize-ms", f"{spent[0]:.3f}".encode())]
            await send(message)

        spent[0] = 0.0
        await asgi(scope, receive, send_with_header)

    return application
