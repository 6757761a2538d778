"""Limit the requests per minute of each client, by an ASGI wrapper around the server.

Each client has a bucket of tokens that fills at a constant rate. A request takes one token, and is a 429 if the bucket
is empty. Clients are identified by the key they send, or else by their address. Keys are not checked here: an invented
key gets its own bucket, and then a 401 from the server.
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
UNLIMITED_PATHS = ("/health", "/v1/health", "/metrics")  # monitoring is not limited
MAX_CLIENTS = 100_000  # buckets in memory; beyond it the least recently used is dropped


class RateLimit:
    """An ASGI application that limits the requests to another one.

    Parameters
    ----------
    asgi : ASGIApp
        The application that gets the requests within the limit.
    per_minute : float
        The average number of requests per minute that each client may send.
    burst : int
        The number of requests that a client may send at once.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(
        self, asgi: ASGIApp, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.asgi, self.rate, self.burst, self.clock = asgi, per_minute / 60, burst, clock
        self.buckets: OrderedDict[bytes, tuple[float, float]] = (
            OrderedDict()
        )  # client → tokens, and the time in seconds of that count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or raise `TooManyRequests`, a 429 with ``Retry-After``."""
        if scope["type"] == "http" and scope["path"] not in UNLIMITED_PATHS and scope["method"] != "OPTIONS":
            self.take(client_id(scope))
        await self.asgi(scope, receive, send)

    def take(self, client: bytes) -> None:
        """Take a token from the client's bucket, or raise `TooManyRequests` if it is empty."""
        now = self.clock()
        tokens, last = self.buckets.pop(client, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - last) * self.rate)
        self.buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self.buckets) > MAX_CLIENTS:
            self.buckets.popitem(last=False)  # least recently used

        if tokens < 1:
            wait = (1 - tokens) / self.rate
            raise TooManyRequests(
                f"at most {self.rate * 60:g} requests per minute are allowed", retry_after=max(1, round(wait + 0.5))
            )


def client_id(scope: Scope) -> bytes:
    """Return the client's key, or its address if it sends none."""
    headers = dict(scope["headers"])
    key: bytes = headers.get(b"authorization") or headers.get(b"x-api-key") or b""
    return key or str((scope.get("client") or ("", 0))[0]).encode()


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Add the flags ``--rate-limit`` and ``--rate-burst``."""
    group = parser.add_argument_group("llamafw-rate-limit")
    group.add_argument(
        "--rate-limit", metavar="N", type=float, help="requests per minute of each client (default: no limit)"
    )
    group.add_argument(
        "--rate-burst",
        metavar="N",
        type=int,
        default=10,
        help="requests that a client may send at once (default: %(default)s)",
    )


@hookimpl
def wrap_asgi(asgi: ASGIApp, app: App) -> ASGIApp | None:
    """Wrap the server if ``--rate-limit`` is given."""
    per_minute, burst = app.settings.extra.get("rate_limit"), app.settings.extra.get("rate_burst", 10)
    if per_minute is None:
        return None
    if not per_minute > 0 or burst < 1:
        raise SettingsError("--rate-limit and --rate-burst must be above 0")
    return RateLimit(asgi, per_minute, burst)
