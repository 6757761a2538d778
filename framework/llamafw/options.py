"""What a setting is to its users: flags, environment variable, range, help; and from their text to its value.

`settings` is the table of them all. This module knows nothing of argparse and of single settings.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llamafw.errors import SettingsError

TYPES: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


@dataclass(frozen=True, slots=True)
class Option:
    """How a user sets one field of `llamafw.Settings`."""

    flags: tuple[str, ...]
    help: str
    group: str
    type: type  # of one value: bool, int, float, str
    env: str | None = None
    metavar: str | None = None
    low: float | None = None  # inclusive
    high: float | None = None
    choices: tuple[str, ...] = ()
    repeat: bool = False  # may be given several times; in the environment, separated by commas
    split: bool = True  # False: in the environment commas separate nothing
    request_field: str | None = None  # sets the default of this field of requests
    off: tuple[str, ...] = ()  # flags that set a bool to False; the last on the command line wins
    off_env: str | None = None  # the same in the environment

    @property
    def range(self) -> str:
        """The values that will do, in words; empty if all of the type do."""
        if self.choices:
            return ", ".join(self.choices)
        low = "" if self.low is None else f"from {_plain(self.low)}"
        high = "" if self.high is None else f"to {_plain(self.high)}"
        return f"{low} {high}".strip()


def option(default: Any, *flags: str, help: str, group: str, type: type, **more: Any) -> Any:
    """Return a dataclass field that carries its `Option`."""
    return field(default=default, metadata={"option": Option(flags, help, group, type, **more)})


def convert(opt: Option, text: str, source: str) -> Any:
    """Return ``text`` as the option's type; SettingsError naming ``source`` (a flag or variable) if it is not one."""
    if opt.type is bool:
        return _bool(text, source)
    try:
        value = opt.type(text)
    except ValueError:
        raise SettingsError(f"{source}: {text!r} is not {TYPES[opt.type]}") from None
    return check(opt, value, source)


def check(opt: Option, value: Any, source: str) -> Any:
    """Return a value of the option's type; SettingsError naming ``source`` if it is not one that will do."""
    if opt.choices and value not in opt.choices:
        raise SettingsError(f"{source}: {value!r} is none of {opt.range}")
    if value != value or (opt.low is not None and value < opt.low) or (opt.high is not None and value > opt.high):
        raise SettingsError(f"{source}: {value} is out of range ({opt.range})")
    return value


def _bool(text: str, source: str) -> bool:
    words: dict[str, bool] = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}
    try:
        return words[text.lower()]
    except KeyError:
        raise SettingsError(f"{source}: {text!r} is none of {', '.join(words)}") from None


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"
