"""Keys made by the command let users in, and no one else, from the moment they are made to the moment they are
removed."""

from pathlib import Path
from typing import Any

import pytest
from llamafw_keys import hashed, main, write

from llamafw import SettingsError
from llamafw.testing.conformance import AuthenticatorConformance, PluginConformance

BODY = {"content": "Hello"}


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main([str(word) for word in argv]) == 0
    return capsys.readouterr().out.strip()


async def test_users_come_and_go_while_the_server_runs(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "users.txt"
    alice = run(capsys, file, "add", "alice")
    assert alice not in file.read_text()
    async with serve(extra={"keys": str(file)}) as client:

        async def status(key: str, header: str = "Authorization", prefix: str = "Bearer ") -> int:
            response = await client.post("/tokenize", json=BODY, headers={header: f"{prefix}{key}"})
            return int(response.status_code)

        capsys.readouterr()
        assert await status(alice) == 200
        assert await status(alice, "X-Api-Key", "") == 200
        assert await status(alice[:-1]) == 401
        bob = run(capsys, file, "add", "bob")
        assert await status(bob) == 200
        assert run(capsys, file, "list") == "alice\nbob"
        run(capsys, file, "remove", "alice")
        assert await status(alice) == 401
        file.write_text(file.read_text() + "nonsense\n")
        assert await status(bob) == 200  # the users stay as they were
        refused = await client.post("/tokenize", json=BODY)
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
        for path in ("/tokenize/", "//tokenize", "/x/../tokenize", "/%74okenize"):
            assert (await client.post(path, json=BODY)).status_code != 200
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 200
        assert (await client.get("/nowhere")).status_code == 404


def test_a_name_is_there_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "users.txt"
    run(capsys, file, "add", "alice")
    assert [main([str(file), *words]) for words in (["add", "alice"], ["remove", "bob"], ["add", "a b"], ["add"])] == [
        1
    ] * 4
    assert file.stat().st_mode & 0o77 == 0


async def test_a_file_that_is_wrong_ends_the_start(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "wrong.txt").write_text("alice secret\n")
    for name, message in (("none.txt", "cannot be read"), ("wrong.txt", r"wrong.txt:1: a line is a name")):
        with pytest.raises(SettingsError, match=message):
            async with serve(extra={"keys": str(tmp_path / name)}):
                pass


class TestKeys(AuthenticatorConformance):
    name = "llamafw-keys"

    def settings(self, folder: Path) -> dict[str, Any]:
        write(folder / "users.txt", {"alice": hashed("key-of-alice")})
        return {"extra": {"keys": str(folder / "users.txt")}}

    def headers(self, folder: Path) -> dict[str, str]:
        return {"Authorization": "Bearer key-of-alice"}


class TestPlugin(PluginConformance):
    name = "llamafw-keys"
