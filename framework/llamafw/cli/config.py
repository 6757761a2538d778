"""Settings from a TOML file, ``--config``. It knows nothing of single settings but which ones say the same."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llamafw.errors import SettingsError, did_you_mean
from llamafw.options import TYPES, Option, check
from llamafw.settings import options

RIVALS: tuple[frozenset[str], ...] = (
    frozenset({"samplers", "sampling_seq"}),
    frozenset({"prompt", "file", "binary_file"}),
    frozenset({"grammar", "json_schema"}),
    frozenset({"grammar_file", "json_schema"}),
    frozenset({"verbose", "verbosity"}),
    frozenset({"hf_repo", "model_url"}),
)
"""Settings that say the same in other words: who gives one of them also wins over a file that has another."""


def merge(file: Mapping[str, Any], environment: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of all three; flags win over the environment, both over the file."""
    given = {**environment, **flags}
    beaten = {name for rivals in RIVALS if rivals & given.keys() for name in rivals}
    return {name: value for name, value in file.items() if name not in beaten} | given


def from_file(path: Path, others: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings in a TOML file: long names of flags without ``--``, with hyphens or underscores.

    ``others`` takes the keys that are no flags of our own; without it they are an error. What stands in tables
    ``[plugin.NAME]`` becomes ``plugin_tables``.

    Raises
    ------
    SettingsError
        The file cannot be read, or a key is unknown, given twice or of the wrong type; it names the file and the key.
    """
    try:
        document = tomllib.loads(path.expanduser().read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # no file; not UTF-8, not TOML; nested too deeply
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"--config: {path} cannot be read: {reason}") from None
    names = _names()
    found: dict[str, Any] = {}
    for key, value in document.items():
        if key == "plugin" and isinstance(value, dict):
            found["plugin_tables"] = _tables(value, path)
            continue
        if isinstance(value, dict):
            raise SettingsError(f"{path}: {key!r} is a table; only settings of plugins have some, [plugin.NAME]")
        if (flag := key.replace("_", "-")) not in names and others is not None:
            others[key] = value
            continue
        if flag not in names:
            raise no_setting(path, key, names)
        name, opt, on = names[flag]
        where = f"{path}: {key}"
        if name in found:
            raise SettingsError(f"{where} is set already, by another of its names")
        read = _value(opt, value, where)
        found[name] = read if on else not read
    return found


def no_setting(path: Path, key: str, flags: Iterable[str]) -> SettingsError:
    """Return the error for a key that is none of ``flags``."""
    return SettingsError(f"{path}: {key!r} is no setting{did_you_mean(key.replace('_', '-'), flags)}")


def keys() -> list[str]:
    """Return the keys that a file may have for our own flags."""
    return list(_names())


def _tables(tables: Mapping[str, Any], path: Path) -> dict[str, Any]:
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: plugin.{name} must be a table of settings, [plugin.{name}]")
    return dict(tables)


def _names() -> dict[str, tuple[str, Option, bool]]:
    """Return the keys of a file: each with its field, its option, and False if true turns the field off."""
    names: dict[str, tuple[str, Option, bool]] = {}
    for name, opt in options().items():
        if name != "config":
            names |= {flag[2:]: (name, opt, True) for flag in opt.flags if flag.startswith("--")}
            names |= {flag[2:]: (name, opt, False) for flag in opt.off if flag.startswith("--")}
    return names | {"plugins": names["plugin"]}  # TOML has no array beside tables of the same name


def _value(opt: Option, value: Any, where: str) -> Any:
    if not opt.repeat:
        return _one(opt, value, where)
    return tuple(_one(opt, one, where) for one in (value if isinstance(value, list) else [value]))


def _one(opt: Option, value: Any, where: str) -> Any:
    if opt.type is float and type(value) is int and abs(value) < 2**63:
        value = float(value)
    if type(value) is not opt.type:  # not isinstance: true is no number
        raise SettingsError(f"{where} must be {TYPES[opt.type]}{' or an array of them' * opt.repeat}")
    return check(opt, value, where)
