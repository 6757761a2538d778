"""The addresses of ``--host``: several hosts, both IP versions, shared ports and unix sockets."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from llamafw.errors import SettingsError, StartupError
from llamafw.server.sockets import Listener, bind


class Bind:
    """Binds hosts, and closes their listeners at the end of the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, hosts: str, port: int = 0, **options: Any) -> list[Listener]:
        listeners = bind(hosts, port, **options)
        for listener in listeners:
            self._stack.callback(listener.close)
        return listeners


@pytest.fixture
def listen() -> Iterator[Bind]:
    with ExitStack() as stack:
        yield Bind(stack)


@pytest.fixture
def sock_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path that is short enough for a unix socket."""
    monkeypatch.chdir(tmp_path)
    return Path("api.sock")


def can_connect(host: str, port: int | None) -> bool:
    try:
        socket.create_connection((host, port or 0), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


def test_several_hosts_share_a_port(listen: Bind) -> None:
    first, second = listen("127.0.0.1, ::1")
    assert first.port == second.port
    assert first.url() == f"http://127.0.0.1:{first.port}"
    assert second.url("https") == f"https://[::1]:{first.port}"
    assert can_connect("127.0.0.1", first.port)
    assert can_connect("::1", first.port)


def test_address_with_two_names_is_bound_once(listen: Bind) -> None:
    listeners = listen("127.0.0.1, localhost, 127.0.0.1")
    bound = [sock.getsockname()[0] for listener in listeners for sock in listener.sockets]
    assert sorted(bound) in (["127.0.0.1"], ["127.0.0.1", "::1"])


def test_unspecified_ipv6_address_accepts_ipv4_too(listen: Bind) -> None:
    (listener,) = listen("::")
    assert can_connect("127.0.0.1", listener.port)
    assert can_connect("::1", listener.port)


def test_unspecified_ipv6_address_beside_others_is_ipv6_only(listen: Bind) -> None:
    both = listen("::,0.0.0.0")
    assert len({listener.port for listener in both}) == 1
    assert can_connect("::1", both[0].port)
    assert can_connect("127.0.0.1", both[0].port)


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
def test_other_addresses_accept_one_version_only(listen: Bind, host: str) -> None:
    (listener,) = listen(host)
    assert can_connect(host, listener.port)
    assert not can_connect("127.0.0.1" if host == "::1" else "::1", listener.port)


def test_ports_are_shared_only_if_both_servers_agree(listen: Bind) -> None:
    (first,) = listen("127.0.0.1", reuse_port=True)
    assert first.port is not None
    (second,) = listen("127.0.0.1", first.port, reuse_port=True)
    assert second.port == first.port
    with pytest.raises(StartupError, match="in use"):
        bind("127.0.0.1", first.port)


@pytest.mark.parametrize(
    ("hosts", "error", "message"),
    [
        ("", SettingsError, "no address is given"),
        (" , ", SettingsError, "no address is given"),
        ("127.0.0.1,no.such.host.invalid", SettingsError, "cannot listen on no.such.host.invalid"),
        ("missing/api.sock", StartupError, "No such file or directory"),
        ("a" * 200 + ".sock", StartupError, "too long"),
    ],
)
def test_startup_fails_with_wrong_hosts(hosts: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bind(hosts, 0)


def test_one_wrong_host_closes_the_others(listen: Bind) -> None:
    (taken,) = listen("127.0.0.1")
    assert taken.port is not None
    with pytest.raises(StartupError, match="in use"):
        bind("::1,127.0.0.1", taken.port)
    assert not can_connect("::1", taken.port)


def test_unix_sockets_are_for_the_owner_and_the_group(listen: Bind, sock_path: Path) -> None:
    umask = os.umask(0)
    try:
        (listener,) = listen(str(sock_path))
        assert os.umask(0) == 0  # it is restored
    finally:
        os.umask(umask)
    assert stat.S_IMODE(sock_path.stat().st_mode) == 0o660
    assert listener.url() == f"unix:{sock_path.absolute()}"
    assert listener.port is None
    listener.close()
    assert not sock_path.exists()


def test_unix_sockets_and_addresses_go_together(listen: Bind, sock_path: Path) -> None:
    unix, tcp = listen(f"{sock_path},127.0.0.1")
    assert unix.port is None
    assert can_connect("127.0.0.1", tcp.port)


def test_files_of_dead_servers_are_replaced(listen: Bind, sock_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(sock_path))
        dead.listen()
    assert sock_path.exists()
    listen(str(sock_path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(sock_path))


def test_files_of_running_servers_are_kept(listen: Bind, sock_path: Path) -> None:
    listen(str(sock_path))
    with pytest.raises(StartupError, match="another server listens"):
        bind(str(sock_path), 0)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(sock_path))


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_other_files_are_never_removed(sock_path: Path, kind: str) -> None:
    if kind == "file":
        sock_path.write_text("precious")
    elif kind == "folder":
        sock_path.mkdir()
    else:
        sock_path.symlink_to("elsewhere")
    with pytest.raises(StartupError, match="is not a socket"):
        bind(str(sock_path), 0)
    assert sock_path.is_symlink() or sock_path.exists()


def test_closing_keeps_the_socket_of_a_newer_server(listen: Bind, sock_path: Path) -> None:
    (old,) = listen(str(sock_path))
    sock_path.unlink()
    keep = Path("keep")  # so that the new file cannot get the inode of the old one
    keep.touch()
    listen(str(sock_path))
    old.close()
    assert sock_path.exists()
