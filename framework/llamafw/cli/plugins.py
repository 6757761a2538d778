"""``llamafw plugins``: what is installed, and what it registered."""
from __future__ import annotations

import json
from dataclasses import asdict

from llamafw.cli.parser import Parser, load_plugins, split_plugin_flags
from llamafw.plugins import Found


def run(argv: list[str]) -> int:
    """Print every plugin found; exit code 1 if one of them cannot be used."""
    first, rest = split_plugin_flags(argv)
    parser = Parser("llamafw plugins", "List the plugins; also with --plugin and --no-plugin, as `llamafw serve`.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse(rest)
    found = list(load_plugins(first, tolerant=True).found.values())
    print(json.dumps([asdict(one) for one in found], indent=2) if given.json else "\n".join(map(_lines, found)))
    return 1 if any(one.error for one in found) else 0


def _lines(one: Found) -> str:
    lines = [f"{one.name} {one.version}"]
    if one.error:
        lines.append(f"  error: {one.error}")
    lines += [f"  {kind}: {', '.join(names)}" for kind, names in one.registered.items()]
    lines.append(f"  hooks: {', '.join(one.hooks) or 'none'}")
    return "\n".join(lines)
