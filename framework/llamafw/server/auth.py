"""API keys, for connexion's security middleware. It knows nothing of which operations are public: the document does."""
from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from connexion.security import NO_VALUE
from starlette.exceptions import HTTPException
from starlette.requests import Request

from llamafw.errors import SettingsError

Verify = Callable[[Request], Any]
"""Returns token information for a request, NO_VALUE if the scheme is not used; raises 401."""


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
