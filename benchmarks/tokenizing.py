"""A plugin for `limits.py`: it reports the time of the tokenizer in the response header ``X-Tokenize-Ms``.

Only one request may run at a time, because the plugin does not tell requests apart.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from llamafw import hookimpl

spent = [0.0]  # milliseconds since the current request began


@hookimpl
def model_loaded(model: Any, app: Any) -> None:
    """Replace the tokenizer's ``encode`` by one that measures its time."""
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
    """Add the header to each response."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-tokenize-ms", f"{spent[0]:.3f}".encode())]
            await send(message)

        spent[0] = 0.0
        await asgi(scope, receive, send_with_header)

    return application
