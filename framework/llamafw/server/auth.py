"""API keys, for connexion's security middleware. It knows nothing of which operations are public: the document does."""
from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from connexion.security import NO_VALUE
from starlette.exceptions import HTTPException
from starlette.requests import Request

from llamafw.errors import SettingsError
from llamafw.settings import Settings

Verify = Callable[[Request], Any]
"""Returns token information for a request, NO_VALUE if the scheme is not used; raises 401."""


def keys(settings: Settings) -> tuple[str, ...]:
    """Return the keys of ``--api-key`` and ``--api-key-file``."""
    if settings.api_key_file is None:
        return settings.api_key
    path = Path(settings.api_key_file).expanduser()
    try:
        lines = [line.strip() for line in path.read_bytes().decode().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--api-key-file: {path} cannot be read: {error}") from None
    if not any(lines):
        raise SettingsError(f"--api-key-file: {path} holds no key")  # nor would the server ask for any
    return (*settings.api_key, *filter(None, lines))


def security_map(keys: Iterable[str]) -> dict[str, type]:
    """Return connexion's handlers of ``http bearer`` and ``apiKey`` schemes; without keys everybody may pass."""
    known = [key.encode() for key in keys]
    if b"" in known:
        raise SettingsError("--api-key: a key cannot be empty")

    def verify(given: str | None) -> Any:
        if not known:
            return {"sub": "anyone"}
        if given is None:
            return NO_VALUE
        matches = [hmac.compare_digest(given.encode("latin-1"), key) for key in known]  # all of them: no early exit
        if not any(matches):
            raise HTTPException(401)
        return {"sub": "key"}

    class Bearer:
        def get_fn(self, scheme: Mapping[str, Any], scopes: Any) -> Verify:
            return lambda request: verify(bearer_token(request.headers.get("authorization")))

    class ApiKey:
        def get_fn(self, scheme: Mapping[str, Any], scopes: Any) -> Verify:
            name = scheme["name"]
            return lambda request: verify(request.headers.get(name))

    return {"bearer": Bearer, "apiKey": ApiKey}


def bearer_token(header: str | None) -> str | None:
    """Return the token of an Authorization header, if that is what it carries (RFC 6750; the scheme in any case)."""
    scheme, _, token = (header or "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
