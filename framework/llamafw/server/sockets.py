"""Bind the addresses of ``--host`` and ``--port``: host names, IP addresses and unix sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

from llamafw.errors import SettingsError, StartupError

BACKLOG = 2048
"""Maximum number of connections that wait to be accepted."""

UNIX_SUFFIX = ".sock"
"""How the path of a unix socket ends; other hosts are names and IP addresses."""

_UMASK = 0o117  # only the owner and the group may connect
_ANY_IPV6 = "::"


class Listener:
    """The listening sockets of one host, and its address for the log."""

    def __init__(self, sockets: Sequence[socket.socket], path: Path | None = None) -> None:
        self.sockets = sockets
        self._path = path
        self._inode = path.stat().st_ino if path else None

    @property
    def port(self) -> int | None:
        """The port; None for a unix socket."""
        return None if self._path else int(self.sockets[0].getsockname()[1])

    def url(self, scheme: str = "http") -> str:
        """Return the address as a URL; ``unix:PATH`` for a unix socket."""
        if self._path:
            return f"unix:{self._path}"
        host, port = self.sockets[0].getsockname()[:2]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def close(self) -> None:
        """Close the sockets, and remove the file of a unix socket unless another server has replaced it."""
        for sock in self.sockets:
            sock.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()


def bind(hosts: str, port: int, *, reuse_port: bool = False) -> list[Listener]:
    """Return the listeners of a comma-separated list of hosts.

    Parameters
    ----------
    hosts : str
        Names, IP addresses and paths of unix sockets. ``::`` alone stands for all addresses, IPv4 included; beside
        other addresses, for those of IPv6.
    port : int
        The port; 0: a free one, the same for all hosts.
    reuse_port : bool
        Whether other processes may listen on the same port, if they agree to it too.

    Raises
    ------
    SettingsError
        No host is given, a host has no address, or the system has no unix sockets or shared ports.
    StartupError
        An address is in use, or may not be bound.
    """
    names = [name for part in hosts.split(",") if (name := part.strip())]
    if not names:
        raise SettingsError("--host: no address is given; leave the flag out to listen on 127.0.0.1")
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise SettingsError(
            "--reuse-port: this system does not allow several servers on one port (it has no SO_REUSEPORT)"
        )

    is_alone = sum(not name.endswith(UNIX_SUFFIX) for name in names) == 1
    listeners: list[Listener] = []
    try:
        for name in names:
            if name.endswith(UNIX_SUFFIX):
                listeners.append(_bind_unix(name))
                continue
            dual_stack = is_alone and name == _ANY_IPV6
            taken = {sock.getsockname()[:2] for listener in listeners for sock in listener.sockets}
            listener = _bind_host(name, port, taken, reuse_port=reuse_port, dual_stack=dual_stack)
            if listener.sockets:
                listeners.append(listener)
                port = listener.port or port
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _bind_host(
    host: str, port: int, taken: Collection[tuple[str, int]], *, reuse_port: bool, dual_stack: bool
) -> Listener:
    """Listen on all addresses of a host, except those that another name in ``--host`` has ``taken``."""
    sockets: list[socket.socket] = []
    reason = "the host has no address"
    for family, kind, protocol, _, address in dict.fromkeys(_addresses(host, port)):
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        if port == 0 and sockets:
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        if address[:2] in taken:
            reason = ""
            continue
        sock = socket.socket(family, kind, protocol)
        try:
            _set_options(sock, reuse_port=reuse_port, dual_stack=dual_stack)
            _listen(sock, address)
            sockets.append(sock)
        except OSError as error:
            sock.close()
            reason = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                reason += "; choose another port with --port"
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # these are for ::1 without IPv6
                break
    else:
        if sockets or not reason:
            return Listener(sockets)

    for sock in sockets:
        sock.close()
    raise StartupError(f"cannot listen on {host}:{port}: {reason}")


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # type: ignore[return-value]  # enums are ints
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}") from None


def _set_options(sock: socket.socket, *, reuse_port: bool, dual_stack: bool) -> None:
    if os.name == "posix":  # on Windows, the option would let two servers share a port
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)


def _listen(sock: socket.socket, address: object) -> None:
    sock.bind(address)  # type: ignore[arg-type]  # what getaddrinfo returned
    sock.listen(BACKLOG)
    sock.setblocking(False)


def _bind_unix(name: str) -> Listener:
    """Listen on a unix socket; a file that a server left behind is replaced."""
    if not hasattr(socket, "AF_UNIX"):
        raise SettingsError(f"--host: {name}: this system has no unix sockets; name an IP address")
    path = Path(name).expanduser().absolute()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        umask = os.umask(_UMASK)
        try:
            _listen(sock, str(path))
        finally:
            os.umask(umask)
        return Listener([sock], path)
    except OSError as error:
        sock.close()
        raise StartupError(f"cannot listen on {name}: {error.strerror or error}") from None
    except BaseException:
        sock.close()
        raise


def _remove_stale(path: Path) -> None:
    """Remove the file of a unix socket on which nobody listens any more.

    Raises
    ------
    StartupError
        The file is not a socket, or a server listens on it.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartupError(f"cannot listen on {path}: the file exists and is not a socket; choose another path")

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise StartupError(f"cannot listen on {path}: another server listens on it; stop it or choose another path")
