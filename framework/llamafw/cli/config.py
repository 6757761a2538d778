"""Read settings from a TOML file (``--config``), and merge them with those from the environment and from flags."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llamafw.errors import SettingsError, did_you_mean
from llamafw.options import TYPE_NAMES, Option, check, split_list
from llamafw.settings import options

ALTERNATIVES: tuple[frozenset[str], ...] = (
    frozenset({"samplers", "sampling_seq"}),
    frozenset({"prompt", "file", "binary_file"}),
    frozenset({"grammar", "json_schema"}),
    frozenset({"grammar_file", "json_schema"}),
    frozenset({"verbose", "verbosity"}),
    frozenset({"hf_repo", "model_url"}),
)
"""Groups of alternative settings: a flag or variable for one of a group also replaces the others in the file."""


def merge(file: Mapping[str, Any], environment: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Merge settings: flags take precedence over the environment, and both take precedence over the file."""
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
    other_keys : dict
        Unconverted values of the keys that are not flags of llamafw itself.

    Raises
    ------
    SettingsError
        The file cannot be read, or a key is given twice or has a wrong value; the message names the file and the key.
    """
    document = _read_toml(path)
    known = _known_keys()
    settings: dict[str, Any] = {}
    other_keys: dict[str, Any] = {}
    for key, value in document.items():
        if key == "plugin" and isinstance(value, dict):
            settings["plugin_tables"] = _checked_tables(value, path)
            continue
        if isinstance(value, dict):
            raise SettingsError(f"{path}: {key!r} is a table; the only tables are settings of plugins, [plugin.NAME]")
        flag = key.replace("_", "-")
        if flag not in known:
            other_keys[key] = value
            continue

        name, opt, turns_on = known[flag]
        where = f"{path}: {key}"
        if name in settings:
            raise SettingsError(f"{where} is already set, by another name of the same flag")
        converted = _convert(opt, value, where)
        settings[name] = converted if turns_on else not converted
    return settings, other_keys


def unknown_key(path: Path, key: str, plugin_keys: Iterable[str]) -> SettingsError:
    """Return the error for a key of a file that is neither a flag of llamafw nor of a plugin."""
    return SettingsError(f"{path}: unknown setting {key!r}{did_you_mean(key, [*_known_keys(), *plugin_keys])}")


def as_list(value: Any) -> list[Any]:
    """Return the values of a flag that may be repeated; a file may have an array of them or a single value."""
    return value if isinstance(value, list) else [value]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.expanduser().read_text("utf-8"))
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
    except UnicodeDecodeError as error:
        problem = f"cannot be read: it is not UTF-8 (byte {error.start})"
    except (ValueError, RecursionError) as error:  # RecursionError: it is nested too deeply
        problem = f"is not valid TOML: {error}"
    raise SettingsError(f"--config: {path} {problem}")


def _checked_tables(tables: Mapping[str, Any], path: Path) -> dict[str, Any]:
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: plugin.{name} must be a table of settings, [plugin.{name}]")
    return dict(tables)


def _known_keys() -> dict[str, tuple[str, Option, bool]]:
    """Return the keys that a file may have → field, option, and whether the value true turns the field on."""
    keys: dict[str, tuple[str, Option, bool]] = {}
    for name, opt in options().items():
        if name != "config":
            keys |= {flag[2:]: (name, opt, True) for flag in opt.flags if flag.startswith("--")}
            keys |= {flag[2:]: (name, opt, False) for flag in opt.off_flags if flag.startswith("--")}
    return keys | {"plugins": keys["plugin"]}  # TOML does not allow an array and tables of the same name


def _convert(opt: Option, value: Any, where: str) -> Any:
    if not opt.repeat:
        return _convert_single(opt, value, where)
    return tuple(_convert_single(opt, item, where) for item in split_list(opt, as_list(value)))


def _convert_single(opt: Option, value: Any, where: str) -> Any:
    if opt.type is float and type(value) is int and abs(value) < 2**63:
        value = float(value)
    if type(value) is not opt.type:  # not isinstance: True is an int, but not a number to users
        expected = f"{TYPE_NAMES[opt.type]}{' or an array of them' * opt.repeat}"
        raise SettingsError(f"{where} must be {expected}, not {_as_toml(value)}")
    return check(opt, value, where)


def _as_toml(value: Any) -> str:
    """Return a value for an error message, as TOML writes it."""
    text = repr(value) if isinstance(value, str) else str(value)
    return (text.lower() if isinstance(value, bool) else text)[:80]
