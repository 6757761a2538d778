"""Tests of keys from the moment they are created to the moment they are removed."""

from pathlib import Path
from typing import Any

import pytest
from llamafw_keys import hash_key, main, write_users

from llamafw import SettingsError
from llamafw.testing.conformance import AuthenticatorConformance, PluginConformance

BODY = {"content": "Hello"}


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main([str(word) for word in argv]) == 0
    return capsys.readouterr().out.strip()


async def test_users_are_added_and_removed_while_the_server_runs(
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["add", "alice"], "'alice' exists already"),
        (["remove", "bob"], "no user 'bob'"),
        (["add", "a b"], "'a b' is not a valid name"),
        (["add"], "add needs the name"),
    ],
)
def test_command_refuses_invalid_names(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "users.txt"
    run(capsys, file, "add", "alice")
    before = file.read_text()

    assert main([str(file), *words]) == 1
    assert message in capsys.readouterr().err
    assert file.read_text() == before


def test_file_is_readable_only_by_its_owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "users.txt"
    run(capsys, file, "add", "alice")
    assert file.stat().st_mode & 0o77 == 0


async def test_invalid_file_stops_startup(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "wrong.txt").write_text("alice secret\n")
    for name, message in (("none.txt", "cannot be read"), ("wrong.txt", r"wrong.txt:1: not a name and a SHA-256 hash")):
        with pytest.raises(SettingsError, match=message):
            async with serve(extra={"keys": str(tmp_path / name)}):
                pass


class TestKeys(AuthenticatorConformance):
    name = "llamafw-keys"

    def settings(self, folder: Path) -> dict[str, Any]:
        write_users(folder / "users.txt", {"alice": hash_key("key-of-alice")})
        return {"extra": {"keys": str(folder / "users.txt")}}

    def headers(self, folder: Path) -> dict[str, str]:
        return {"Authorization": "Bearer key-of-alice"}


class TestPlugin(PluginConformance):
    name = "llamafw-keys"
