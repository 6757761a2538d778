"""Fields of requests that generate: options of samplers, fields of plugins, and the defaults that flags set."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import jsonschema_rs

from llamafw.errors import SettingsError, SpecError
from llamafw.plugins import is_ours, shown
from llamafw.registry import Registry
from llamafw.settings import Settings, options
from llamafw.spec.operations import HOME, NOBODY, PLUGIN, SAMPLER_OPTIONS, Document
from llamafw.spec.schemas import as_json_schema, validator


def add_sampler_options(document: Document, samplers: Registry, owners: Mapping[str, str] = NOBODY) -> None:
    """Give every schema that asks for it the fields of all samplers, and the names that ``samplers`` may hold."""
    for place, schema in _generating(document):
        properties = schema.setdefault("properties", {})
        sides = dict.fromkeys(properties, f"{owners.get(place, HOME)} ({place})")
        plain = dict(properties)
        for name, sampler in samplers.items():
            for field, option in sampler.options.items():
                side = f"sampler {name!r} of plugin {samplers.owner(name)}"
                option = {"nullable": True, **deepcopy(dict(option))}  # clients send null for "as you like"
                if field not in properties:
                    plain[field], sides[field] = option, side
                    properties[field] = _marked(option, samplers.owner(name))
                elif plain[field] != option:
                    raise SpecError(f"the field {field!r} is described differently by {sides[field]} and {side}")
        if "samplers" in properties:
            _set_names(properties["samplers"], list(samplers))


def add_fields(document: Document, fields: Registry, samplers: Registry, owners: Mapping[str, str] = NOBODY) -> None:
    """Give every schema that takes the options of samplers the fields that plugins have registered, too."""
    for place, schema in _generating(document):
        for field, option in fields.items():
            if field in schema["properties"]:
                named = [name for name, sampler in samplers.items() if field in sampler.options]
                other = (
                    f"sampler {named[0]!r} of plugin {samplers.owner(named[0])}"
                    if named
                    else f"{owners.get(place, HOME)} ({place})"
                )
                raise SpecError(f"the field {field!r} is defined by both {other} and plugin {fields.owner(field)}")
            option = {"nullable": True, **deepcopy(dict(option))}
            schema["properties"][field] = _marked(option, fields.owner(field))


def _marked(option: dict[str, Any], owner: str) -> dict[str, Any]:
    """Let a field say which plugin it is from, to readers and to `server.validation`."""
    if is_ours(owner):
        return option
    text = f"{option.get('description', '')} (Of the plugin `{shown(owner)}`.)".strip()
    return {**option, "description": text, PLUGIN: shown(owner)}


def check_sampler(name: str, samplers: Registry) -> None:
    """Raise SpecError unless a sampler's options are JSON Schemas with defaults, and what it precedes is a sampler."""
    options, side = samplers[name].options, f"of sampler {name!r} of plugin {samplers.owner(name)}"
    if not isinstance(options, Mapping):
        raise SpecError(f"the options {side} are {options!r:.80}, and not fields with their JSON Schemas")
    for field, option in options.items():
        check = _check_option(option, f"the option {field!r} {side}")
        if "default" not in option:
            raise SpecError(f"the option {field!r} {side} has no default")
        if option["default"] is not None and not check.is_valid(option["default"]):
            raise SpecError(f"the option {field!r} {side} does not allow its own default, {option['default']!r:.80}")
    follower = getattr(samplers[name], "precedes", None)
    if follower is not None and follower not in samplers:
        owner, hint = samplers.owner(name), samplers.suggest(str(follower))
        raise SpecError(f"sampler {name!r} of plugin {owner} precedes {follower!r}, which is no sampler{hint}")


def check_field(name: str, fields: Registry) -> None:
    """Raise SpecError unless a field is a JSON Schema."""
    _check_option(fields[name], f"the field {name!r} of plugin {fields.owner(name)}")


def _check_option(option: Any, side: str) -> jsonschema_rs.Draft4Validator:
    """Return a validator for a field of plugins'; SpecError if it is no JSON Schema."""
    try:
        return jsonschema_rs.Draft4Validator(as_json_schema(option) if isinstance(option, Mapping) else option)
    except (jsonschema_rs.ValidationError, ValueError, TypeError) as error:
        raise SpecError(f"{side} is no JSON Schema: {getattr(error, 'message', error)}") from None


def set_defaults(document: Document, settings: Settings, samplers: Registry) -> None:
    """Show the defaults that flags have set; SettingsError if a request field does not allow one."""
    flags = {opt.request_field: opt.flags[-1] for opt in options().values() if opt.request_field}
    wanted: dict[str, tuple[str, Any]] = {
        field: (flags[field], value) for field, value in settings.request_defaults().items()
    }
    names = settings.sampler_names()
    if names is not None:
        for name in names:
            if name not in samplers:
                raise SettingsError(f"--samplers: there is no sampler {name!r}{samplers.suggest(name)}")
        wanted["samplers"] = ("--samplers", list(names))
    schemas = [schema for _, schema in _generating(document)]
    for field, (flag, value) in wanted.items():
        found = [schema["properties"] for schema in schemas if field in schema["properties"]]
        if not found and schemas:
            raise SettingsError(f"{flag}: no sampler or operation takes {field!r}")
        for properties in found:
            _check_default(document, properties[field], value, flag)
            properties[field] = {**properties[field], "default": value}


def _generating(document: Document) -> list[tuple[str, dict[str, Any]]]:
    schemas = document.get("components", {}).get("schemas", {})
    return [
        (f"components.schemas.{name}", schema)
        for name, schema in schemas.items()
        if isinstance(schema, dict) and schema.get(SAMPLER_OPTIONS)
    ]


def _set_names(schema: Any, names: list[str]) -> None:
    """Set the ``enum`` of every string item within ``schema``."""
    if isinstance(schema, list):
        for part in schema:
            _set_names(part, names)
    elif isinstance(schema, dict):
        items = schema.get("items")
        if isinstance(items, dict) and items.get("type") == "string":
            items["enum"] = names
        for part in schema.values():
            _set_names(part, names)


def _check_default(document: Document, schema: Mapping[str, Any], value: Any, flag: str) -> None:
    error = next(iter(validator(schema, document).iter_errors(value)), None)
    if error is not None:
        raise SettingsError(f"{flag}: {error.message}")
