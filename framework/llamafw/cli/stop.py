"""``llamafw stop``: stop servers of this user on this machine."""

from __future__ import annotations

from urllib.parse import urlsplit

import psutil

from llamafw.cli.parser import CommandParser
from llamafw.errors import LlamafwError, SettingsError
from llamafw.server.records import ServerRecord, running_servers

EXTRA_SECONDS = 30
"""Seconds that a server may take to stop, in addition to those that running requests have to finish."""


class StopError(LlamafwError):
    """A server cannot be stopped."""


def run(argv: list[str]) -> int:
    """Stop servers, and wait until they have ended."""
    args = make_parser().parse(argv)
    if args.all and args.servers:
        raise SettingsError("stop: --all takes no names")
    servers = running_servers()
    if args.all:
        chosen = servers
    elif args.servers:
        chosen = list(dict.fromkeys(_find(name, servers) for name in args.servers))
    else:
        chosen = [_the_only(servers)]
    if not chosen:
        print("no server is running")
    processes = [(server, _terminate(server)) for server in chosen]  # all of them first: they stop at the same time
    for server, process in processes:
        _wait(server, process)
        print(f"stopped {server.pid}, {server.model or '(loading)'}, {', '.join(server.urls)}")
    return 0


def make_parser() -> CommandParser:
    """Return the parser of this command."""
    parser = CommandParser(
        "llamafw stop",
        "Stop servers that `llamafw ps` lists. Running requests may finish within the server's "
        "--timeout-graceful-shutdown seconds. Without a name, the only running server is stopped.",
        usage="llamafw stop [--all | SERVER ...]",
        example="llamafw stop 8080\nllamafw stop --all",
    )
    parser.add_argument(
        "servers", nargs="*", metavar="SERVER", help="process number, port, address or model of a server"
    )
    parser.add_argument("-a", "--all", action="store_true", help="stop all servers")
    return parser


def _the_only(servers: list[ServerRecord]) -> ServerRecord:
    if not servers:
        raise StopError("stop: no server is running")
    if len(servers) > 1:
        raise SettingsError(f"stop: {len(servers)} servers are running; name one of them, or use --all")
    return servers[0]


def _find(name: str, servers: list[ServerRecord]) -> ServerRecord:
    """Return the server that a name identifies; raise StopError or SettingsError."""
    by_pid = [server for server in servers if name == str(server.pid)]
    found = by_pid or [server for server in servers if name.rstrip("/") in names_of(server)]
    if not found:
        raise StopError(f"stop: no server is called {name}; `llamafw ps` lists the servers")
    if len(found) > 1:
        numbers = ", ".join(str(server.pid) for server in found)
        raise SettingsError(f"stop: {name} is the name of {len(found)} servers; use a process number: {numbers}")
    return found[0]


def names_of(server: ServerRecord) -> set[str]:
    """Return the names of a server: its model, its addresses, also without scheme and prefix, and its ports."""
    names = {*server.urls, *([server.model] if server.model else [])}
    for address in map(urlsplit, server.urls):
        if address.port is not None:
            names |= {f"{address.scheme}://{address.netloc}", address.netloc, str(address.port)}
    return names


def _terminate(server: ServerRecord) -> psutil.Process | None:
    """Ask a server to stop; return its process, or None if it has ended meanwhile."""
    process = server.process()
    try:
        if process is not None:
            process.terminate()
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        raise StopError(f"stop: server {server.pid} cannot be stopped: it belongs to another user") from None
    return process


def _wait(server: ServerRecord, process: psutil.Process | None) -> None:
    try:
        if process is not None:
            process.wait(server.grace + EXTRA_SECONDS)
    except psutil.TimeoutExpired:
        raise StopError(f"stop: server {server.pid} has not stopped after {server.grace + EXTRA_SECONDS:g} s") from None
