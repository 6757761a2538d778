"""``llamafw plugins``: what is installed, and what it registered."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llamafw import spec
from llamafw.cli.parser import Parser, load_plugins, split_plugin_flags
from llamafw.cli.plugin_flags import plugin_flags
from llamafw.errors import PluginError, SpecError
from llamafw.plugins import Plugins
from llamafw.registry import Registry
from llamafw.settings import Settings
from llamafw.types import PluginInfo


def run(argv: list[str]) -> int:
    """Print every plugin found; exit code 1 if one of them cannot be used."""
    first, rest = split_plugin_flags(argv)
    parser = Parser("llamafw plugins", "List the plugins; also with --plugin and --no-plugin, as `llamafw serve`.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse(rest)
    plugins = load_plugins(first, tolerant=True)
    clash = _all_else(plugins, first)
    found = plugins.listing()
    print(json.dumps([asdict(one) for one in found], indent=2) if given.json else "\n".join(map(_lines, found)))
    if clash:
        print(f"llamafw: {clash}", file=sys.stderr)
    return 1 if clash or any(one.state == "failed" for one in found) else 0


def _all_else(plugins: Plugins, settings: Settings) -> SpecError | PluginError | None:
    """Let plugins add flags and endpoints, as a server would; return why they do not fit together, if so."""
    from llamafw.server.running_app import RunningApp  # --help need not wait for it

    try:
        plugin_flags(plugins, settings.config)
        document = spec.merged_document(plugins, settings)
        plugins.fill(endpoints := Registry("endpoint"), app=RunningApp(settings, plugins, document))
        spec.check(document, endpoints)
    except (SpecError, PluginError) as error:
        return error
    return None


def _lines(one: PluginInfo) -> str:
    about = [one.state, f"{one.load_ms:.0f} ms", *([f"API {one.requires_api}"] if one.requires_api else [])]
    lines = [f"{one.name} {one.version} ({', '.join(about)})"]
    if one.error:
        lines.append(f"  error: {one.error}")
    lines += [f"  {kind}: {', '.join(names)}" for kind, names in one.kinds.items()]
    lines += [f"  option {key}: {_schema(schema)}" for key, schema in one.options.items()]
    lines += [f"  request field {key}: {_schema(schema)}" for key, schema in one.request_fields.items()]
    if one.state != "blocked":
        lines.append(f"  hooks: {', '.join(one.hooks) or 'none'}")
    return "\n".join(lines)


def _schema(schema: Mapping[str, Any]) -> str:
    text = schema.get("description")
    rest = {key: value for key, value in schema.items() if key != "description"}
    return f"{text} {json.dumps(rest)}" if text else json.dumps(rest)
