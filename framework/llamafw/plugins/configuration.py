"""Settings of plugins: ``[plugin.NAME]`` in the file, ``--plugin-option NAME.key=value``, and what a plugin takes.

A plugin states ``plugin_options``, keys with their JSON Schemas, and takes their values by the hook ``configure``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafw.errors import PluginError, SettingsError, did_you_mean, suggest
from llamafw.settings import Settings

FLAG = "--plugin-option"


@dataclass(frozen=True, slots=True)
class Given:
    """One setting of a plugin, as it was given."""

    plugin: str  # what the user calls it
    key: str
    value: Any
    is_text: bool  # from a flag: to be read as the schema's type
    place: str  # for errors: the file or the flag


def given_options(settings: Settings) -> list[Given]:
    """Return the settings of all plugins, those of flags last: they win."""
    file = f"{settings.config}: " if settings.config else ""
    found = [
        Given(name, key, value, False, f"{file}plugin.{name}")
        for name, table in settings.plugin_tables.items()
        for key, value in table.items()
    ]
    for text in settings.plugin_option:
        left, equals, value = text.partition("=")
        name, dot, key = left.rpartition(".")
        if not (equals and dot and name and key):
            raise SettingsError(f"{FLAG}: {text!r} is no NAME.key=value")
        found.append(Given(name.strip(), key.strip(), value, True, f"{FLAG} {name.strip()}"))
    return found


def check_names(given: Iterable[Given], known: Mapping[str, set[str]]) -> None:
    """Raise SettingsError for a setting of a plugin that does not exist, or of more than one."""
    everything = set().union(*known.values())
    for one in given:
        owners = [name for name, aliases in known.items() if one.plugin in aliases]
        if len(owners) > 1:
            raise SettingsError(f"{one.place}: {one.plugin!r} may be {' or '.join(owners)}")
        if not owners:
            hint = did_you_mean(one.plugin, everything)
            raise SettingsError(f"{one.place}: there is no plugin {one.plugin!r}{hint}")


def file_names(name: str) -> set[str]:
    """Return what a user may call a plugin that ``--plugin`` has named: a file also by its name alone."""
    return {name, Path(name).stem} if name.endswith(".py") else {name}


def check_schemas(options: Any) -> Mapping[str, Any]:
    """Return the options that a plugin states; PluginError if they are no keys with JSON Schemas."""
    import jsonschema_rs  # most plugins have none

    if not isinstance(options, Mapping):
        raise PluginError(f"its plugin_options are {options!r:.80}, and not keys with their JSON Schemas")
    for key, schema in options.items():
        try:
            check = jsonschema_rs.Draft202012Validator(schema)
        except (jsonschema_rs.ValidationError, ValueError, TypeError) as error:
            raise PluginError(f"its option {key!r} is no JSON Schema: {getattr(error, 'message', error)}") from None
        if "default" in schema and not check.is_valid(schema["default"]):
            raise PluginError(f"its option {key!r} does not allow its own default, {schema['default']!r:.80}")
    return options


def values(name: str, options: Mapping[str, Any], given: Iterable[Given]) -> dict[str, Any]:
    """Return what a plugin gets: what was given, held against its schemas, and the defaults of the rest.

    Raises
    ------
    SettingsError
        A key is not the plugin's, or its value not allowed; the message names both, and the file or flag.
    """
    found = {key: schema["default"] for key, schema in options.items() if "default" in schema}
    for one in given:
        where = f"{one.place}.{one.key}"
        if one.key not in options:
            raise SettingsError(f"{where}: plugin {name} has no option {one.key!r}{suggest(one.key, options)}")
        value = _read(one.value, options[one.key]) if one.is_text else one.value
        _check(value, options[one.key], f"{where}: {{}} (plugin {name})")
        found[one.key] = value
    return found


def _check(value: Any, schema: Mapping[str, Any], message: str) -> None:
    import jsonschema_rs

    try:
        error = next(iter(jsonschema_rs.Draft202012Validator(dict(schema)).iter_errors(value)), None)
    except (ValueError, TypeError):  # a date, which TOML has and JSON has not
        raise SettingsError(message.format(f"{value!r:.80} is no JSON")) from None
    if error is not None:
        raise SettingsError(message.format(error.message))


def _read(text: str, schema: Mapping[str, Any]) -> Any:
    """Return text from the command line as what the schema wants: text as it is, else JSON; it is checked later."""
    kinds = schema.get("type", "string" if all(isinstance(one, str) for one in schema.get("enum", [0])) else None)
    if kinds == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
