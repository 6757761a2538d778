"""Read settings from a TOML file (``--config``), and merge them with those of the environment and of flags."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llamafw.errors import SettingsError, did_you_mean
from llamafw.options import TYPE_NAMES, Option, check
from llamafw.settings import options

ALTERNATIVES: tuple[frozenset[str], ...] = (
    frozenset({"samplers", "sampling_seq"}),
    frozenset({"prompt", "file", "binary_file"}),
    frozenset({"grammar", "json_schema"}),
    frozenset({"grammar_file", "json_schema"}),
    frozenset({"verbose", "verbosity"}),
    frozenset({"hf_repo", "model_url"}),
)
"""Settings that are alternatives to each other: a flag or variable for one replaces the others in the file, too."""


def merge(file: Mapping[str, Any], environment: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of all three sources; flags win over the environment, and both win over the file."""
    stronger = {**environment, **flags}
    replaced = {name for names in ALTERNATIVES if names & stronger.keys() for name in names}
    return {name: value for name, value in file.items() if name not in replaced} | stronger


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings in a TOML file, and its other keys, which may be flags of plugins.

    Keys are long flags without ``--``, with hyphens or underscores. Tables ``[plugin.NAME]`` become ``plugin_tables``.

    Returns
    -------
    settings : dict
        Values by their field in `Settings`.
    others : dict
        Values of the keys that are not flags of llamafw itself, as they are in the file.

    Raises
    ------
    SettingsError
        The file cannot be read, or a key is given twice or has a wrong value; the message names the file and the key.
    """
    document = _read_toml(path)
    known = _known_keys()
    settings: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for key, value in document.items():
        if key == "plugin" and isinstance(value, dict):
            settings["plugin_tables"] = _checked_tables(value, path)
            continue
        if isinstance(value, dict):
            raise SettingsError(f"{path}: {key!r} is a table; the only tables are settings of plugins, [plugin.NAME]")
        flag = key.replace("_", "-")
        if flag not in known:
            others[key] = value
            continue

        name, opt, turns_on = known[flag]
        where = f"{path}: {key}"
        if name in settings:
            raise SettingsError(f"{where} is already set, by another name of the same flag")
        converted = _convert(opt, value, where)
        settings[name] = converted if turns_on else not converted
    return settings, others


def unknown_key(path: Path, key: str, plugin_keys: Iterable[str]) -> SettingsError:
    """Return the error for a key of a file that is neither a flag of llamafw nor of a plugin."""
    return SettingsError(f"{path}: unknown setting {key!r}{did_you_mean(key, [*_known_keys(), *plugin_keys])}")


def as_list(value: Any) -> list[Any]:
    """Return the values of a flag that may be repeated: a file has an array of them, or a single one."""
    return value if isinstance(value, list) else [value]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.expanduser().read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # no file; not UTF-8 or not TOML; nested too deeply
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"--config: {path} cannot be read: {reason}") from None


def _checked_tables(tables: Mapping[str, Any], path: Path) -> dict[str, Any]:
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: plugin.{name} must be a table of settings, [plugin.{name}]")
    return dict(tables)


def _known_keys() -> dict[str, tuple[str, Option, bool]]:
    """Return the keys that a file may have: each with its field, its option, and False if true turns the field off."""
    keys: dict[str, tuple[str, Option, bool]] = {}
    for name, opt in options().items():
        if name != "config":
            keys |= {flag[2:]: (name, opt, True) for flag in opt.flags if flag.startswith("--")}
            keys |= {flag[2:]: (name, opt, False) for flag in opt.off_flags if flag.startswith("--")}
    return keys | {"plugins": keys["plugin"]}  # TOML does not allow an array and tables of the same name


def _convert(opt: Option, value: Any, where: str) -> Any:
    if not opt.repeat:
        return _convert_single(opt, value, where)
    return tuple(_convert_single(opt, item, where) for item in as_list(value))


def _convert_single(opt: Option, value: Any, where: str) -> Any:
    if opt.type is float and type(value) is int and abs(value) < 2**63:
        value = float(value)
    if type(value) is not opt.type:  # not isinstance: True is an int, but not a number to users
        raise SettingsError(f"{where} must be {TYPE_NAMES[opt.type]}{' or an array of them' * opt.repeat}")
    return check(opt, value, where)
