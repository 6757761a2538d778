"""``llamafw plugins``: list the plugins and everything that they register."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llamafw import spec
from llamafw.cli.parser import CommandParser
from llamafw.cli.plugin_flags import collect_plugin_flags
from llamafw.cli.read_settings import load_plugins, parse_early_flags
from llamafw.errors import PluginError, SpecError
from llamafw.plugins import Plugins
from llamafw.registry import Registry
from llamafw.settings import Settings
from llamafw.types import PluginInfo


def run(argv: list[str]) -> int:
    """Print every plugin that was found; return 1 if one of them cannot be used."""
    early, rest = parse_early_flags(argv)
    parser = CommandParser(
        "llamafw plugins",
        "List the plugins and what they register. --config and the flags for plugins (--plugin, --no-plugin, ...) work "
        "as for `llamafw serve`.",
        example="llamafw plugins\nllamafw plugins --json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    args = parser.parse(rest)

    plugins = load_plugins(early, tolerant=True)
    clash = _register_everything(plugins, early)
    listing = plugins.listing()
    if args.json:
        print(json.dumps([asdict(info) for info in listing], indent=2))
    else:
        print("\n".join(map(_describe, listing)))
    if clash:
        print(f"llamafw: {clash}", file=sys.stderr)
    return 1 if clash or any(info.state == "failed" for info in listing) else 0


def _register_everything(plugins: Plugins, settings: Settings) -> SpecError | PluginError | None:
    """Let plugins add flags, operations and endpoints as for a server; return the error if two plugins clash."""
    from llamafw.server.running_app import RunningApp  # a slow import, which --help does not need

    try:
        collect_plugin_flags(plugins, settings.config)
        document = spec.merged_document(plugins, settings)
        plugins.fill(endpoints := Registry("endpoint"), app=RunningApp(settings, plugins, document))
        spec.check_endpoints(document, endpoints)
    except (SpecError, PluginError) as error:
        return error
    return None


def _describe(info: PluginInfo) -> str:
    """Return the lines that are printed about one plugin."""
    facts = [info.state, f"{info.load_ms:.0f} ms"]
    if info.requires_api:
        facts.append(f"API {info.requires_api}")
    lines = [f"{info.name} {info.version} ({', '.join(facts)})"]
    if info.error:
        lines.append(f"  error: {info.error}")

    lines += [f"  {kind}: {', '.join(names)}" for kind, names in info.kinds.items()]
    lines += [f"  option {key}: {_describe_schema(schema)}" for key, schema in info.options.items()]
    lines += [f"  request field {key}: {_describe_schema(schema)}" for key, schema in info.request_fields.items()]
    if info.state != "blocked":
        lines.append(f"  hooks: {', '.join(info.hooks) or 'none'}")
    return "\n".join(lines)


def _describe_schema(schema: Mapping[str, Any]) -> str:
    description = schema.get("description")
    rest = {key: value for key, value in schema.items() if key != "description"}
    return f"{description} {json.dumps(rest)}" if description else json.dumps(rest)
