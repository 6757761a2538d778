"""So many requests a minute for each client, whatever they ask for: an ASGI wrapper around the whole server.

Each client has a bucket of tokens that fills at an even rate; a request takes one, and is a 429 if there is none.
Clients are told apart by the key they send, or else by their address. What they send is not checked here: who invents
keys gets new buckets, and a 401 for each.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from llamafw import App, SettingsError, TooManyRequests, hookimpl

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

requires_api = ">=1.0,<2"
FREE = ("/health", "/v1/health", "/metrics")  # who watches the server is no client of it
MAX_CLIENTS = 100_000  # buckets that are remembered


class RateLimit:
    """An ASGI application around another.

    Parameters
    ----------
    per_minute : float
        Requests that each client may send, in the long run.
    burst : int
        Those it may send at once.
    clock : callable
        Returns seconds.
    """

    def __init__(
        self, asgi: ASGIApp, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.asgi, self.rate, self.burst, self.clock = asgi, per_minute / 60, burst, clock
        self.buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # client → tokens, and when that was

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or raise what becomes a 429 with ``Retry-After``."""
        if scope["type"] == "http" and scope["path"] not in FREE and scope["method"] != "OPTIONS":
            self.take(client_of(scope))
        await self.asgi(scope, receive, send)

    def take(self, client: bytes) -> None:
        """Take a token from the client's bucket."""
        now = self.clock()
        tokens, then = self.buckets.pop(client, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        self.buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self.buckets) > MAX_CLIENTS:
            self.buckets.popitem(last=False)  # the one that has been silent for longest
        if tokens < 1:
            wait = (1 - tokens) / self.rate
            raise TooManyRequests(
                f"at most {self.rate * 60:g} requests a minute", retry_after=max(1, round(wait + 0.5))
            )


def client_of(scope: Scope) -> bytes:
    """Return what tells clients apart."""
    headers = dict(scope["headers"])
    key: bytes = headers.get(b"authorization") or headers.get(b"x-api-key") or b""
    return key or str((scope.get("client") or ("", 0))[0]).encode()


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("llamafw-rate-limit")
    group.add_argument(
        "--rate-limit", metavar="N", type=float, help="requests a minute for each client (default: no limit)"
    )
    group.add_argument(
        "--rate-burst", metavar="N", type=int, default=10, help="those it may send at once (default: %(default)s)"
    )


@hookimpl
def wrap_asgi(asgi: ASGIApp, app: App) -> ASGIApp | None:
    """Stand before the server, if there is a limit."""
    per_minute, burst = app.settings.extra.get("rate_limit"), app.settings.extra.get("rate_burst", 10)
    if per_minute is None:
        return None
    if not per_minute > 0 or burst < 1:
        raise SettingsError("--rate-limit and --rate-burst are numbers above 0")
    return RateLimit(asgi, per_minute, burst)
