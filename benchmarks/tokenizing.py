"""A plugin for `limits.py`: says in the header ``X-Tokenize-Ms`` how long a response was held up by the tokenizer.

For one request at a time: what it counts, it counts for the whole server.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from llamafw import hookimpl

spent = [0.0]  # milliseconds since the last request


@hookimpl
def model_loaded(model: Any, app: Any) -> None:
    """Put a clock around the tokenizer's ``encode``."""
    tokenizer = app.loaded.tokenizer
    encode = tokenizer.encode

    def timed(*args: Any, **more: Any) -> Any:
        start = perf_counter()
        try:
            return encode(*args, **more)
        finally:
            spent[0] += (perf_counter() - start) * 1e3

    tokenizer.encode = timed


@hookimpl
def wrap_asgi(asgi: Any, app: Any) -> Any:
    """Tell."""

    async def around(scope: Any, receive: Any, send: Any) -> None:
        async def telling(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-tokenize-ms", f"{spent[0]:.3f}".encode())]
            await send(message)

        spent[0] = 0.0
        await asgi(scope, receive, telling)

    return around
