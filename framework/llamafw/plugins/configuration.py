"""Reads the settings of plugins and checks them against the options that the plugins declare.

They come from ``[plugin.NAME]`` in the file of ``--config`` and from ``--plugin-option NAME.key=value``. A plugin
declares its options as ``plugin_options``, JSON Schemas by key, and receives the values in its hook ``configure``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamafw.errors import PluginError, SettingsError, did_you_mean, suggest
from llamafw.plugins.schema_errors import describe_schema_error
from llamafw.settings import Settings

FLAG = "--plugin-option"


@dataclass(frozen=True, slots=True)
class PluginSetting:
    """One value that the user has set for an option of a plugin."""

    plugin: str  # the name that the user gave it
    key: str
    value: Any
    is_text: bool  # True on the command line: the value is to be parsed as the schema's type
    source: str  # the file or the flag, for error messages


def plugin_settings(settings: Settings) -> list[PluginSetting]:
    """Return the settings of all plugins.

    Those of the command line come last, because they win.
    """
    file = f"{settings.config}: " if settings.config else ""
    found = [
        PluginSetting(name, key, value, False, f"{file}plugin.{name}")
        for name, table in settings.plugin_tables.items()
        for key, value in table.items()
    ]
    for text in settings.plugin_option:
        left, equals, value = text.partition("=")
        name, dot, key = left.rpartition(".")
        if not (equals and dot and name and key):
            raise SettingsError(f"{FLAG}: {text!r} is not of the form NAME.key=value")
        found.append(PluginSetting(name.strip(), key.strip(), value, True, f"{FLAG} {name.strip()}"))
    return found


def check_plugin_names(settings: Iterable[PluginSetting], aliases: Mapping[str, set[str]]) -> None:
    """Check that each setting belongs to exactly one plugin.

    Parameters
    ----------
    settings : iterable of PluginSetting
        The values that the user has set.
    aliases : mapping of str to set of str
        The names that a user may give each plugin.

    Raises
    ------
    SettingsError
        The plugin of a setting does not exist, or several plugins have that name.
    """
    known = sorted(set().union(*aliases.values()))
    for setting in settings:
        owners = [name for name, names in aliases.items() if setting.plugin in names]
        if len(owners) > 1:
            choices = " or ".join(owners)
            raise SettingsError(f"{setting.source}: the name {setting.plugin!r} is ambiguous; write {choices}")
        if not owners:
            hint = did_you_mean(setting.plugin, known)
            raise SettingsError(f"{setting.source}: plugin {setting.plugin!r} does not exist{hint}")


def aliases_of(name: str) -> set[str]:
    """Return the names that a user may give a plugin of ``--plugin``.

    For a file, its name without ``.py`` is one.
    """
    return {name, Path(name).stem} if name.endswith(".py") else {name}


def check_option_schemas(options: Any) -> Mapping[str, Any]:
    """Return the options that a plugin declares, after checking their schemas.

    Raises
    ------
    PluginError
        The options are not a mapping of keys to JSON Schemas, or a default does not match its schema.
    """
    import jsonschema_rs  # here because most plugins have no options

    if not isinstance(options, Mapping):
        raise PluginError(f"its plugin_options must be a mapping of keys to JSON Schemas, not {options!r:.80}")
    for key, schema in options.items():
        try:
            validator = jsonschema_rs.Draft202012Validator(schema)
        except (jsonschema_rs.ValidationError, ValueError, TypeError) as error:
            reason = describe_schema_error(error)
            raise PluginError(f"the schema of its option {key!r} is not a valid JSON Schema: {reason}") from None
        if "default" in schema and not validator.is_valid(schema["default"]):
            raise PluginError(f"the default of its option {key!r} does not match its schema: {schema['default']!r:.80}")
    return options


def option_values(plugin: str, options: Mapping[str, Any], settings: Iterable[PluginSetting]) -> dict[str, Any]:
    """Return the values of a plugin's options: those that the user has set, and defaults for the others.

    Parameters
    ----------
    plugin : str
        The plugin's full name, for error messages.
    options : mapping
        JSON Schemas by key, as the plugin declares them.
    settings : iterable of PluginSetting
        The values that the user has set for this plugin. If a key is set twice, the later value wins.

    Raises
    ------
    SettingsError
        The plugin has no such option, or the value does not match the schema. The message names the file or flag, the
        key and the plugin.
    """
    found = {key: schema["default"] for key, schema in options.items() if "default" in schema}
    for setting in settings:
        key, place = setting.key, f"{setting.source}.{setting.key}"
        if key not in options:
            raise SettingsError(f"{place}: plugin {plugin} has no option {key!r}{suggest(key, options)}")
        value = _parse(setting.value, options[key]) if setting.is_text else setting.value
        _check_value(value, options[key], f"{place}: {{}} (plugin {plugin})")
        found[key] = value
    return found


def _check_value(value: Any, schema: Mapping[str, Any], message: str) -> None:
    import jsonschema_rs

    try:
        error = next(iter(jsonschema_rs.Draft202012Validator(dict(schema)).iter_errors(value)), None)
    except (ValueError, TypeError):  # a type that TOML has and JSON does not, such as a date
        raise SettingsError(message.format(f"{value!r:.80} cannot be written as JSON")) from None
    if error is not None:
        raise SettingsError(message.format(describe_schema_error(error)))


def _parse(text: str, schema: Mapping[str, Any]) -> Any:
    """Return the value of a text from the command line: the text itself if the schema wants a string, else JSON."""
    only_strings = all(isinstance(value, str) for value in schema.get("enum", [0]))
    if schema.get("type", "string" if only_strings else None) == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # validation will say what is wrong with it
