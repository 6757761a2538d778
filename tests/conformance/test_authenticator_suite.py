"""The suite for authenticators names the rule that an authenticator breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamafw.testing.conformance import AuthenticatorConformance
from support.conformance import suite

LAX = """
from llamafw import User, hookimpl

class Lax:
    async def authenticate(self, credentials):
        return User("x") if any(key.lower().startswith("key") for key in credentials.keys) else None

@hookimpl
def register_authenticators(register, app): register("lax", Lax())
"""


@pytest.fixture
def lax(tmp_path: Path) -> Any:
    """Return the suite for an authenticator that accepts every key that begins with "key"."""
    path = tmp_path / "lax.py"
    path.write_text(LAX)
    return suite(
        AuthenticatorConformance,
        None,
        name="lax",
        plugins=(str(path),),
        settings=lambda self, folder: {},
        headers=lambda self, folder: {"X-Api-Key": "key-of-alice"},
    )


async def test_similar_keys_are_reported(lax: Any, serve: Any, tmp_path: Path) -> None:
    await lax.test_known_users_are_accepted(serve, tmp_path)
    with pytest.raises(
        AssertionError, match="X-Api-Key with its last character removed is 200, expected 401, 403 or 429"
    ):
        await lax.test_similar_keys_are_rejected(serve, tmp_path)


async def test_asking_for_credentials_without_settings_is_reported(lax: Any, serve: Any) -> None:
    with pytest.raises(AssertionError, match="without credentials is 401, expected 200"):
        await lax.test_server_is_open_without_settings(serve)


async def test_rejected_users_are_reported(lax: Any, serve: Any, tmp_path: Path) -> None:
    lax.headers = lambda folder: {"X-Api-Key": "other"}
    with pytest.raises(
        AssertionError, match=r"20 concurrent requests with a user's credentials get the statuses \[401\]"
    ):
        await lax.test_known_users_are_accepted(serve, tmp_path)
