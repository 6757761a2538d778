"""The rules for authenticators: a server accepts their users' credentials and rejects everything else, everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llamafw import spec
from llamafw.testing.conformance.base import Conformance, load
from llamafw.testing.plugin import small_settings

BODY = {"content": "Hello"}  # for POST /tokenize, which needs a key like every operation that is not public
INVALID_KEYS = ("", " ", "x" * 20_000, "é€", "a.b.c.d", "..", "Bearer", "'; --", "\udcff", "0", "None", "null")
REJECTED = (401, 403, 429)
PATHS_LIKE_TOKENIZE = ("/tokenize/", "//tokenize", "/x/../tokenize", "/%74okenize", "/tokenize%00", "/TOKENIZE")


class AuthenticatorConformance(Conformance):
    """Subclass it, give the plugin's ``name``, `settings` that switch it on, and the `headers` of a user.

    The ``name`` is the distribution, or what ``llamafw plugins`` lists.
    """

    kind = "authenticator"

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """Return settings of a server that asks for credentials; ``folder`` is empty, for files that it needs."""
        pytest.skip("implement `settings`, which switch it on, and the `headers` of a user")

    def headers(self, folder: Path) -> Mapping[str, str]:
        """Return the headers of a user whom it knows. `settings` has been called with the same folder."""
        pytest.fail("`settings` are implemented, but not the `headers` of a user")

    async def test_known_users_are_accepted(self, serve: Any, tmp_path: Path) -> None:
        """Requests of a user are answered, also many at once."""
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            requests = [client.post("/tokenize", json=BODY, headers=self.headers(tmp_path)) for _ in range(20)]
            statuses = {response.status_code for response in await asyncio.gather(*requests)}
            assert statuses == {200}, f"20 concurrent requests of a user get the statuses {sorted(statuses)}"

    async def test_every_private_operation_needs_credentials(self, serve: Any, tmp_path: Path) -> None:
        """Without credentials every operation is a 401, except those that the API document calls public."""
        n_private = 0
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            for path, method, operation in spec.operations(self.document(tmp_path)):
                url = path.replace("{", "").replace("}", "")
                status = (await client.request(method, url)).status_code
                if operation.get("security") == []:
                    assert status != 401, f"{method.upper()} {path} is public but asks for credentials"
                else:
                    n_private += 1
                    assert status == 401, f"{method.upper()} {path} without credentials is {status}, expected 401"
        assert n_private, "the API document has no private operation"

    async def test_unusual_paths_are_no_way_around(self, serve: Any, tmp_path: Path) -> None:
        """Other spellings of a path do not lead to an operation without credentials."""
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            for path in PATHS_LIKE_TOKENIZE:
                status = (await client.post(path, json=BODY)).status_code
                assert status >= 300, f"POST {path} without credentials is {status}"

    async def test_invalid_keys_are_rejected(self, serve: Any, tmp_path: Path) -> None:
        """Keys that are empty, long, or not even text are a 401, 403 or 429 with an error envelope."""
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            for key in INVALID_KEYS:
                for name, prefix in (("Authorization", "Bearer "), ("X-Api-Key", ""), ("Authorization", "Basic ")):
                    header = f"{name}: {prefix}{key!r:.40}"
                    headers = {name.encode(): f"{prefix}{key}".encode("utf-8", "surrogateescape")}
                    response = await client.post("/tokenize", json=BODY, headers=headers)
                    status = response.status_code
                    assert status in REJECTED, f"{header} is {status}, expected 401, 403 or 429"
                    assert response.json()["error"]["code"] == status, f"{header}: the error has no envelope"

    async def test_similar_keys_are_rejected(self, serve: Any, tmp_path: Path) -> None:
        """A user's key with one character more, less or changed is rejected."""
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            user_headers = self.headers(tmp_path)
            assert user_headers, "`headers` is empty"
            for name, value in user_headers.items():
                changed = value[:-1] + ("0" if value[-1] != "0" else "1")
                for similar in {value[:-1], f"{value}x", changed, value.swapcase()} - {value}:
                    response = await client.post("/tokenize", json=BODY, headers={**user_headers, name: similar})
                    assert response.status_code in REJECTED, f"{name}: {similar!r:.60} is {response.status_code}"

    async def test_server_keys_still_work(self, serve: Any, tmp_path: Path) -> None:
        """With ``--api-key`` too, both the server's key and the user's credentials are accepted."""
        async with serve(plugin=self.plugins, api_key=("of-the-server",), **self.settings(tmp_path)) as client:
            for headers in (self.headers(tmp_path), {"Authorization": "Bearer of-the-server"}):
                status = (await client.post("/tokenize", json=BODY, headers=headers)).status_code
                assert status == 200, f"with --api-key, a request with the headers {list(headers)} is {status}"

    async def test_server_is_open_without_settings(self, serve: Any) -> None:
        """Without its settings, an installed authenticator asks for nothing."""
        async with serve(plugin=self.plugins) as client:
            status = (await client.post("/tokenize", json=BODY)).status_code
            assert status == 200, f"without settings, a request without credentials is {status}, expected 200"

    # --- helpers

    def document(self, folder: Path) -> spec.Document:
        """Return the API document."""
        return spec.merged_document(load(self.plugins), small_settings(**self.settings(folder)))
