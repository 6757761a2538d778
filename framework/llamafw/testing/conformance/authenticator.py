"""What every authenticator keeps: who is known gets in, nobody else does, wherever they knock and whatever they say."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llamafw import spec
from llamafw.testing.conformance.base import Conformance, load
from llamafw.testing.plugin import small_settings

BODY = {"content": "Hello"}  # of POST /tokenize, which is guarded as any operation is
ODD = ("", " ", "x" * 20_000, "é€", "a.b.c.d", "..", "Bearer", "'; --", "\udcff", "0", "None", "null")


class AuthenticatorConformance(Conformance):
    """Subclass it, give as ``name`` the plugin, `settings` with which it guards a server, and the `headers` of a user.

    As ``name``, its distribution or what ``llamafw plugins`` lists.
    """

    kind = "authenticator"

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """Return settings of a server that it guards; ``folder`` is an empty one, for what it may need."""
        pytest.skip("give `settings` of a server that it guards, and the `headers` of a user")

    def headers(self, folder: Path) -> Mapping[str, str]:
        """Return headers by which it knows a user, after `settings` has been called with the same folder."""
        pytest.fail("it gives `settings`, and no `headers` of a user")

    async def test_who_is_known_gets_in(self, serve: Any, tmp_path: Path) -> None:
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            answers = [client.post("/tokenize", json=BODY, headers=self.headers(tmp_path)) for _ in range(20)]
            found = {response.status_code for response in await asyncio.gather(*answers)}
            assert found == {200}, f"twenty requests of a user at once are {sorted(found)}"

    async def test_every_operation_is_guarded(self, serve: Any, tmp_path: Path) -> None:
        """But those that the document calls public."""
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            for path, method, operation in spec.operations(self.document(tmp_path)):
                where = path.replace("{", "").replace("}", "")
                status = (await client.request(method, where)).status_code
                if operation.get("security") == []:
                    assert status != 401, f"{method.upper()} {path} is public, and asks for a key"
                else:
                    assert status == 401, f"{method.upper()} {path} without a key is {status}"

    async def test_ways_around_are_closed(self, serve: Any, tmp_path: Path) -> None:
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            for path in ("/tokenize/", "//tokenize", "/x/../tokenize", "/%74okenize", "/tokenize%00", "/TOKENIZE"):
                status = (await client.post(path, json=BODY)).status_code
                assert status >= 300, f"{path} without a key is {status}"

    async def test_whatever_is_no_key_is_refused(self, serve: Any, tmp_path: Path) -> None:
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            for key in ODD:
                for name, prefix in (("Authorization", "Bearer "), ("X-Api-Key", ""), ("Authorization", "Basic ")):
                    headers = {name.encode(): f"{prefix}{key}".encode("utf-8", "surrogateescape")}
                    response = await client.post("/tokenize", json=BODY, headers=headers)
                    found = response.status_code
                    assert found in (401, 403, 429), f"{name}: {prefix}{key!r:.40} is {found}"
                    assert response.json()["error"]["code"] == found, f"{name}: {prefix}{key!r:.40} has no envelope"

    async def test_a_key_that_is_a_little_wrong_is_refused(self, serve: Any, tmp_path: Path) -> None:
        async with serve(plugin=self.plugins, **self.settings(tmp_path)) as client:
            for name, value in self.headers(tmp_path).items():
                other = value[:-1] + ("0" if value[-1] != "0" else "1")
                for wrong in (value[:-1], f"{value}x", other, value.swapcase()):
                    headers = {**self.headers(tmp_path), name: wrong}
                    status = (await client.post("/tokenize", json=BODY, headers=headers)).status_code
                    assert status in (401, 403, 429) or wrong == value, f"{name}: {wrong!r:.60} is {status}"

    async def test_keys_of_the_server_are_good_as_well(self, serve: Any, tmp_path: Path) -> None:
        async with serve(plugin=self.plugins, api_key=("of-the-server",), **self.settings(tmp_path)) as client:
            for headers in (self.headers(tmp_path), {"Authorization": "Bearer of-the-server"}):
                status = (await client.post("/tokenize", json=BODY, headers=headers)).status_code
                assert status == 200, f"beside --api-key, {list(headers)} of a user are {status}"

    async def test_a_server_that_it_was_not_asked_to_guard_is_open(self, serve: Any) -> None:
        async with serve(plugin=self.plugins) as client:
            status = (await client.post("/tokenize", json=BODY)).status_code
            assert status == 200, f"without settings for it, a request without a key is {status}"

    # --- how

    def document(self, folder: Path) -> spec.Document:
        """Return the API document."""
        return spec.merged_document(load(self.plugins), small_settings(**self.settings(folder)))
