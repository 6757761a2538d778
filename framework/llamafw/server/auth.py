"""The door: who may call operations that are not public. It knows nothing of which these are: the document does.

API keys and what plugins register go the same way: each is asked whether it knows the sender, until one does.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from llamafw import spec
from llamafw.errors import SettingsError
from llamafw.hookspecs import NAME
from llamafw.options import read_file
from llamafw.registry import Registry
from llamafw.server.routing import operation_of
from llamafw.serving import Authenticator, Credentials
from llamafw.settings import Settings
from llamafw.types import User

USER = "user"
"""Where ``scope["state"]`` has the `User`."""


def keys(settings: Settings) -> tuple[str, ...]:
    """Return the keys of ``--api-key`` and ``--api-key-file``."""
    if settings.api_key_file is None:
        return settings.api_key
    lines = [line.strip() for line in read_file("--api-key-file", settings.api_key_file).splitlines()]
    if not any(lines):
        raise SettingsError(f"--api-key-file: {settings.api_key_file} holds no key")  # nor would the server ask for any
    return (*settings.api_key, *filter(None, lines))


def authenticators(settings: Settings) -> Registry:
    """Return the table of what knows users: API keys, if there are any; plugins add to it."""
    registry = Registry("authenticator")
    if given := keys(settings):
        registry.add("api_key", ApiKeys(given), owner=NAME)
    return registry


class ApiKeys:
    """Knows the keys of ``--api-key``. A user is called after the hash of the key. A `llamafw.Authenticator`."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._users = {key.encode(): User(f"key-{hashlib.sha256(key.encode()).hexdigest()[:8]}") for key in keys}
        if b"" in self._users:
            raise SettingsError("--api-key: a key cannot be empty")

    async def authenticate(self, credentials: Credentials) -> User | None:
        """Return the user of the first key that is known."""
        for given in credentials.keys:
            raw = given.encode("latin-1")  # as it came
            matches = [user for key, user in self._users.items() if hmac.compare_digest(raw, key)]  # all: no early exit
            if matches:
                return matches[0]
        return None


class Door:
    """Middleware behind routing: lets through who is known, and everybody where the document asks for nobody.

    Without authenticators everybody may call everything.
    """

    def __init__(
        self, app: ASGIApp, *, document: Mapping[str, Any], authenticators: Mapping[str, Authenticator]
    ) -> None:
        self.app, self._authenticators = app, authenticators
        default = document.get("security", [])
        self._guarded: dict[str | None, Any] = {
            operation["operationId"]: operation.get("security", default)
            for _, _, operation in spec.operations(document)
        }
        schemes = document.get("components", {}).get("securitySchemes", {}).values()
        self._headers = [
            scheme["name"] for scheme in schemes if scheme.get("type") == "apiKey" and scheme.get("in") == "header"
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, its `User` in ``scope["state"]["user"]``; 401 if nobody knows its sender."""
        security = self._guarded.get(operation_of(scope))
        if security and self._authenticators:
            user = await self._user(Request(scope))
            if user is not None:
                scope.setdefault("state", {})[USER] = user
            elif {} not in security:  # which would mean: or nobody
                raise HTTPException(401)
        await self.app(scope, receive, send)

    async def _user(self, request: Request) -> User | None:
        credentials = Credentials(tuple(self._keys(request)), request)
        for authenticator in self._authenticators.values():
            if (user := await authenticator.authenticate(credentials)) is not None:
                return user
        return None

    def _keys(self, request: Request) -> Iterator[str]:
        token = bearer_token(request.headers.get("authorization"))
        yield from [] if token is None else [token]
        for name in self._headers:
            yield from request.headers.getlist(name)


def bearer_token(header: str | None) -> str | None:
    """Return the token of an Authorization header, if that is what it carries (RFC 6750; the scheme in any case)."""
    scheme, _, token = (header or "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
