"""``llamafw ps``: list the servers of this user on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict

from llamafw.cli.parser import CommandParser
from llamafw.server.records import ServerRecord, running_servers


def run(argv: list[str]) -> int:
    """Print the servers."""
    args = make_parser().parse(argv)
    servers = running_servers()
    if args.json:
        print(json.dumps([_entry(server) for server in servers], indent=2))
    elif servers:
        print(servers_table(servers))
    else:
        print("no server is running; `llamafw serve` starts one")
    return 0


def make_parser() -> CommandParser:
    """Return the parser of this command."""
    parser = CommandParser(
        "llamafw ps", "List the servers that you have started on this machine.", example="llamafw ps --json"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def servers_table(servers: list[ServerRecord]) -> str:
    """Return a table of servers."""
    rows = [("PID", "MODEL", "RUNS FOR", "ADDRESS")]
    rows += [
        (str(server.pid), server.model or "(loading)", _duration(server.seconds()), ", ".join(server.urls))
        for server in servers
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{pid:>{widths[0]}}  {model:{widths[1]}}  {time:>{widths[2]}}  {address}" for pid, model, time, address in rows
    )


def _duration(seconds: float) -> str:
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days >= 1:
        return f"{days:.0f} d {hours % 24:.0f} h"
    if hours >= 1:
        return f"{hours:.0f} h {minutes % 60:.0f} min"
    return f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"


def _entry(server: ServerRecord) -> dict[str, object]:
    status = "ready" if server.model else "loading"
    return {**asdict(server), "status": status, "seconds": round(server.seconds(), 1)}
