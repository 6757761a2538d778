"""The rules for authenticators: a server accepts their users' credentials and rejects everything else, everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
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
    """Subclass it, give the plugin's ``name``, and implement `settings` and `headers`.

    The ``name`` is the distribution, or what ``llamafw plugins`` lists.
    """

    kind = "authenticator"

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """Return settings with which the server asks for credentials.

        Parameters
        ----------
        folder : Path
            An empty folder, for files that the authenticator needs.
        """
        pytest.skip("implement `settings`, which enable the authenticator, and `headers` with a user's credentials")

    def headers(self, folder: Path) -> Mapping[str, str]:
        """Return request headers with valid credentials of a user.

        Parameters
        ----------
        folder : Path
            The folder with which `settings` has been called.
        """
        pytest.fail("`settings` is implemented, but not `headers`, which returns the credentials of a user")

    async def test_known_users_are_accepted(self, serve: Any, tmp_path: Path) -> None:
        """Requests with a user's credentials are answered, even many at once."""
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            requests = [client.post("/tokenize", json=BODY, headers=self.headers(tmp_path)) for _ in range(20)]
            statuses = {response.status_code for response in await asyncio.gather(*requests)}
            assert statuses == {200}, (
                f"20 concurrent requests with a user's credentials get the statuses {sorted(statuses)}"
            )

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

    async def test_other_spellings_of_a_path_need_credentials(self, serve: Any, tmp_path: Path) -> None:
        """Other spellings of a path do not bypass authentication."""
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
        """A key that differs from a user's key in one character, or in upper and lower case, is rejected."""
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            user_headers = self.headers(tmp_path)
            assert user_headers, "`headers` is empty"
            for name, value in user_headers.items():
                for change, similar in similar_values(value):
                    response = await client.post("/tokenize", json=BODY, headers={**user_headers, name: similar})
                    status = response.status_code
                    assert status in REJECTED, f"{name} with {change} is {status}, expected 401, 403 or 429"

    async def test_server_keys_still_work(self, serve: Any, tmp_path: Path) -> None:
        """With ``--api-key``, both the server's key and the user's credentials are accepted."""
        async with serve(plugin=self.plugins, api_key=("of-the-server",), **self.settings(tmp_path)) as client:
            for headers in (self.headers(tmp_path), {"Authorization": "Bearer of-the-server"}):
                status = (await client.post("/tokenize", json=BODY, headers=headers)).status_code
                assert status == 200, f"with --api-key, a request with the headers {list(headers)} is {status}"

    async def test_server_is_open_without_settings(self, serve: Any) -> None:
        """Without its settings, an installed authenticator does not ask for credentials."""
        async with serve(plugin=self.plugins) as client:
            status = (await client.post("/tokenize", json=BODY)).status_code
            assert status == 200, f"without settings, a request without credentials is {status}, expected 200"

    # --- helpers

    def document(self, folder: Path) -> spec.Document:
        """Return the API document."""
        return spec.merged_document(load(self.plugins), small_settings(**self.settings(folder)))


def similar_values(value: str) -> Iterator[tuple[str, str]]:
    """Yield values of a header that are similar to a valid one, each after a description of the change."""
    yield "its last character removed", value[:-1]
    yield "one more character", f"{value}x"
    yield "its last character changed", value[:-1] + ("0" if value[-1] != "0" else "1")
    if value.swapcase() != value:
        yield "upper and lower case exchanged", value.swapcase()
