"""Checks that the samplers of plugins create objects that can be used as samplers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from llamafw.errors import FAULTS, PluginError
from llamafw.interfaces import Sampler, SamplerContext, SamplerPlugin
from llamafw.interfaces.members import lacks
from llamafw.plugins import Plugins, is_builtin
from llamafw.registry import missing_sampler_members
from llamafw.types import JsonSchema


def check_samplers(plugins: Plugins, context: SamplerContext) -> None:
    """Create a sampler of each kind that plugins have registered and check its members.

    The class is already checked when a plugin registers it. This check finds mistakes in the objects that its
    ``create`` returns, before the first request does. An invalid sampler is logged, and requests that use it fail.

    Raises
    ------
    PluginError
        A sampler lacks a member, and the start depends on its plugin.
    """
    registry = plugins.registry("sampler")
    for name, plugin in registry.items():
        owner = registry.owner(name)
        if is_builtin(owner):
            continue
        sampler = _create_any(plugin, context)
        if sampler is not None and (missing := missing_sampler_members(sampler)):
            created = f"the sampler {name!r} created an object of class {type(sampler).__name__}"
            plugins.raise_or_log(owner, PluginError(f"plugin {owner}: {created}, which {lacks(missing, Sampler)}"))


def _create_any(plugin: SamplerPlugin, context: SamplerContext) -> Sampler | None:
    """Return a sampler with the first options that create one, or None if no options do."""
    for options in _options_to_try(plugin.options):
        with suppress(*FAULTS):  # some options do not fit together; if all fail, requests report it
            if (sampler := plugin.create(options, context)) is not None:
                return sampler
    return None


def _options_to_try(schemas: JsonSchema) -> Iterator[dict[str, Any]]:
    """Yield the defaults, then the defaults with one other value: by default, many samplers are not created."""
    defaults = {field: schema["default"] for field, schema in schemas.items()}
    yield defaults
    for field, schema in schemas.items():
        for value in _other_values(schema):
            yield defaults | {field: value}


def _other_values(schema: Mapping[str, Any]) -> list[Any]:
    default, kind = schema["default"], schema.get("type")
    if "enum" in schema:
        values = list(schema["enum"])
    elif kind == "boolean":
        values = [True, False]
    elif kind in ("integer", "number"):
        values = [schema[bound] for bound in ("maximum", "minimum") if bound in schema] or [1, 2]
    else:
        values = ["a"] if kind == "string" else []
    return [value for value in values if value != default and value is not None]
