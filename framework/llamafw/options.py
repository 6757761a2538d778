"""What a setting is to its users: flags, environment variable, range, help; and from their text to its value.

`settings` is the table of them all. This module knows nothing of argparse and of single settings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafw.errors import SettingsError

WORDS: dict[str, bool] = {
    "1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False,
}  # fmt: skip
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
    bare: str | None = None  # what the flag without a value stands for; None: it must have one
    parse: Callable[[str], Any] | None = None  # from a checked str to the value; ValueError says what is wrong

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
    try:
        return opt.parse(value) if opt.parse else value
    except ValueError as error:
        raise SettingsError(f"{source}: {value!r:.80} {error}") from None


def read_file(flag: str, name: str) -> str:
    """Return the text in the file that a flag names, to the last byte; SettingsError if there is none."""
    try:
        return Path(name).expanduser().read_bytes().decode()
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is no UTF-8"
    raise SettingsError(f"{flag}: {name} cannot be read: {reason}")


MAX_CPUS = 4096  # processors that a mask may name; more than any system has


def mask(text: str) -> frozenset[int]:
    """Return the processors of a hexadecimal mask, ``0x5`` or ``5``: bit i stands for processor i."""
    if not re.fullmatch(rf"(0[xX])?[0-9a-fA-F]{{1,{MAX_CPUS // 4}}}", text) or not (bits := int(text, 16)):
        raise ValueError("is no mask of processors in hexadecimal, as 0xff is")
    return frozenset(i for i in range(bits.bit_length()) if bits >> i & 1)


def span(text: str) -> frozenset[int]:
    """Return the processors of a range, ``2-5``; a missing bound is the first or last there may be."""
    found = re.fullmatch(r"(\d{0,4})-(\d{0,4})", text)
    low, high = (found[1] or "0", found[2] or str(MAX_CPUS - 1)) if found and text != "-" else ("1", "0")
    if not int(low) <= int(high) < MAX_CPUS:
        raise ValueError("is no range of processors, as 0-3 is")
    return frozenset(range(int(low), int(high) + 1))


def shares(text: str) -> tuple[float, ...]:
    """Return the numbers in ``3,1`` or ``3/1``."""
    try:
        found = tuple(float(part) for part in re.split("[,/]", text))
    except ValueError:
        found = ()
    if not found or not all(share >= 0 and math.isfinite(share) for share in found) or not any(found):
        raise ValueError("is no list of shares, as 3,1 is")
    return found


def switch(text: str) -> bool | None:
    """Return what is on, off, or (None) ``auto``."""
    if text.lower() not in WORDS | {"auto": None}:
        raise ValueError("is none of on, off, auto")
    return WORDS.get(text.lower())


def _bool(text: str, source: str) -> bool:
    try:
        return WORDS[text.lower()]
    except KeyError:
        raise SettingsError(f"{source}: {text!r} is none of {', '.join(WORDS)}") from None


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"
