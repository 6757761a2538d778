"""Tests of the messages that a server sends to a socket in the place of systemd."""

import socket
from pathlib import Path
from typing import Any

import pytest

from llamafw.testing.conformance import PluginConformance


async def test_systemd_is_notified_of_startup_and_shutdown(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        async with serve():
            assert sock.recv(999) == b"STATUS=loading the model"
            assert sock.recv(999) == b"READY=1\nSTATUS=serving tiny, 2 slots"
        assert sock.recv(999) == b"STOPPING=1"


async def test_server_starts_without_systemd(serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("", "nonsense", str(tmp_path / "missing")):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        async with serve() as client:
            assert (await client.get("/health")).status_code == 200


class TestPlugin(PluginConformance):
    name = "llamafw-systemd"
