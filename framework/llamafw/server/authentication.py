"""Authenticate requests with API keys and with the authenticators of plugins.

The API document says which operations are public. For the others, API keys and authenticators are asked one after
another until one knows the user.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from llamafw import spec
from llamafw.errors import SettingsError
from llamafw.hookspecs import NAME
from llamafw.options import read_file
from llamafw.registry import Registry
from llamafw.server.routing import operation_id_of
from llamafw.serving import Authenticator, Credentials
from llamafw.settings import Settings
from llamafw.types import PRIORITIES, User

USER = "user"
"""Key of the `User` in ``scope["state"]``."""


_PRIORITY = re.compile(r"(.*?)\s+priority=(\S*)")  # at the end of a line of the key file


def api_keys(settings: Settings) -> dict[str, int]:
    """Return the keys of ``--api-key`` and ``--api-key-file``, and the priority of each.

    Raises
    ------
    SettingsError
        The file cannot be read, contains no key, or has an invalid priority.
    """
    keys = dict.fromkeys(settings.api_key, 0)
    if settings.api_key_file is None:
        return keys
    stripped = (line.strip() for line in read_file("--api-key-file", settings.api_key_file).splitlines())
    lines = [line for line in stripped if line and not line.startswith("#")]
    if not lines:  # without keys, the server would be open to everyone
        raise SettingsError(f"--api-key-file: {settings.api_key_file} contains no key")
    return keys | dict(_key_and_priority(line, settings.api_key_file) for line in lines)


def _key_and_priority(line: str, file: str) -> tuple[str, int]:
    match = _PRIORITY.fullmatch(line)
    if match is None:
        return line, 0
    try:
        priority = int(match[2])
    except ValueError:
        priority = PRIORITIES.stop
    if priority not in PRIORITIES:
        allowed = f"a whole number from {PRIORITIES.start} to {PRIORITIES.stop - 1}"
        raise SettingsError(f"--api-key-file: {file}: priority={match[2]:.20} is not {allowed}")
    return match[1], priority


def key_registry(settings: Settings) -> Registry:
    """Return the registry of authenticators, with the API keys in it if there are any.

    Plugins add to it.
    """
    registry = Registry("authenticator")
    if keys := api_keys(settings):
        registry.add("api_key", ApiKeys(keys), owner=NAME)
    return registry


class ApiKeys:
    """The authenticator (`llamafw.Authenticator`) for ``--api-key``.

    A user is named after the hash of the key.

    Parameters
    ----------
    keys : mapping of str to int
        The keys and the priority of each; see `User`.
    """

    def __init__(self, keys: Mapping[str, int]) -> None:
        self._users = {
            key.encode(): User(f"key-{hashlib.sha256(key.encode()).hexdigest()[:8]}", priority=priority)
            for key, priority in keys.items()
        }
        if b"" in self._users:
            raise SettingsError("--api-key: a key cannot be empty")

    async def authenticate(self, credentials: Credentials) -> User | None:
        """Return the user of the first known key."""
        for key in credentials.keys:
            raw = key.encode("latin-1")  # the bytes of the header
            matches = [user for known, user in self._users.items() if hmac.compare_digest(raw, known)]  # no early exit
            if matches:
                return matches[0]
        return None


class AuthenticationMiddleware:
    """Lets a request pass if an authenticator knows its user, or if its operation is public.

    It must come after routing. Without authenticators, every operation is public.
    """

    def __init__(
        self, app: ASGIApp, *, document: Mapping[str, Any], authenticators: Mapping[str, Authenticator]
    ) -> None:
        self.app, self._authenticators = app, authenticators
        default = document.get("security", [])
        self._security: dict[str | None, Any] = {
            operation["operationId"]: operation.get("security", default)
            for _, _, operation in spec.operations(document)
        }
        schemes = document.get("components", {}).get("securitySchemes", {}).values()
        self._key_headers = [
            scheme["name"] for scheme in schemes if scheme.get("type") == "apiKey" and scheme.get("in") == "header"
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with its `User` in ``scope["state"]["user"]``; 401 if the user is unknown."""
        security = self._security.get(operation_id_of(scope))
        if security and self._authenticators:
            user = await self._authenticate(Request(scope))
            if user is not None:
                scope.setdefault("state", {})[USER] = user
            elif {} not in security:  # {} in OpenAPI's list makes authentication optional
                raise HTTPException(401)
        await self.app(scope, receive, send)

    async def _authenticate(self, request: Request) -> User | None:
        credentials = Credentials(tuple(self._keys(request)), request)
        for authenticator in self._authenticators.values():
            if (user := await authenticator.authenticate(credentials)) is not None:
                return user
        return None

    def _keys(self, request: Request) -> Iterator[str]:
        token = bearer_token(request.headers.get("authorization"))
        if token is not None:
            yield token
        for name in self._key_headers:
            yield from request.headers.getlist(name)


def bearer_token(header: str | None) -> str | None:
    """Return the bearer token of an Authorization header, or None (RFC 6750; the scheme is case-insensitive)."""
    scheme, _, token = (header or "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
