"""Describe a setting as users see it (flags, environment variable, range, help), and convert its text to a value.

`settings` has the table of all settings. Independent of argparse and of particular settings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafw.errors import SettingsError
from llamafw.types import PRIORITIES

BOOLEANS: dict[str, bool] = {
    "1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False,
}  # fmt: skip
TYPE_NAMES: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
MAX_CPUS = 4096
"""Number of processors that a CPU mask or range can name; more than any machine has."""

_NOT_A_RANGE = "is not a range of processors such as 0-3"
_ESCAPE = re.compile(r"""\\(?:x([0-9A-Fa-f]{2})|([nrt'"\\]))""")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_STATED_DEFAULT = re.compile(r" ?\(default: ([^()]*)\)")


@dataclass(frozen=True, slots=True)
class Option:
    """How users set one field of `llamafw.Settings`."""

    flags: tuple[str, ...]
    help: str  # may say "(default: ...)" in words, where the default value itself says little, such as None
    group: str
    type: type  # of one value: bool, int, float or str
    env: str | None = None
    other_env: tuple[str, ...] = ()  # further names of the environment variable, in other versions of llama-server
    metavar: str | None = None
    low: float | None = None  # smallest allowed value
    high: float | None = None  # largest allowed value
    choices: tuple[str, ...] = ()
    repeat: bool = False  # the flag may be given several times; the environment variable has a list
    split: bool = False  # each value of the flag is a list too, separated by commas
    item: str = ""  # regular expression: only commas before a match separate values, which keep their spaces
    request_field: str | None = None  # the request field whose default this option sets
    off_flags: tuple[str, ...] = ()  # flags that set a bool to False; the last one on the command line wins
    off_env: str | None = None  # environment variable that sets a bool to False
    joint: str = ""  # on the command line, the value may also be two words, which this character joins
    bare_value: str | None = None  # value of the flag if it is given without one; None: it needs a value
    parse: Callable[[str], Any] | None = None  # converts a valid str to the final value, or raises ValueError

    @property
    def long_flag(self) -> str:
        """The longest flag, for messages."""
        return max(self.flags, key=len)

    @property
    def range(self) -> str:
        """The allowed values in words; "" if every value of the type is allowed."""
        if self.choices:
            return ", ".join(self.choices)
        low = "" if self.low is None else f"from {_format_number(self.low)}"
        high = "" if self.high is None else f"to {_format_number(self.high)}"
        return f"{low} {high}".strip()

    def help_and_default(self, default: Any) -> tuple[str, str]:
        """Return the help without its default, and the default in words; "" if there is no default to show.

        Parameters
        ----------
        default : object
            The field's default in `llamafw.Settings`. Words for it in the help take precedence.
        """
        if stated := _STATED_DEFAULT.search(self.help):
            return self.help.replace(stated[0], "", 1), stated[1]
        if default is None or default == ():
            return self.help, ""
        return self.help, ("on" if default else "off") if isinstance(default, bool) else str(default)


def option(default: Any, *flags: str, help: str, group: str, type: type, **more: Any) -> Any:
    """Return a dataclass field that carries an `Option`."""
    return field(default=default, metadata={"option": Option(flags, help, group, type, **more)})


def convert(opt: Option, text: str, source: str) -> Any:
    """Convert a text to a value of the option.

    Parameters
    ----------
    opt : Option
        The option.
    text : str
        The value on the command line or in the environment.
    source : str
        The flag or variable with this value, for the error message.

    Raises
    ------
    SettingsError
        The text is not of the option's type, or the value is not allowed.
    """
    if opt.type is bool:
        return _to_bool(text, source)
    try:
        value = opt.type(text)
    except ValueError:
        raise SettingsError(f"{source}: {text!r} is not {TYPE_NAMES[opt.type]}") from None
    return check(opt, value, source)


def check(opt: Option, value: Any, source: str) -> Any:
    """Check a value of the option's type, and return the final value; SettingsError if it is not allowed."""
    if opt.choices and value not in opt.choices:
        raise SettingsError(f"{source}: {value!r} is not one of {opt.range}")
    is_nan = value != value
    if is_nan or (opt.low is not None and value < opt.low) or (opt.high is not None and value > opt.high):
        raise SettingsError(f"{source}: {value} is out of range ({opt.range})")
    try:
        return opt.parse(value) if opt.parse else value
    except ValueError as error:
        raise SettingsError(f"{source}: {value!r:.80} {error}") from None


def read_file(flag: str, name: str) -> str:
    """Return the whole text of the file that a flag names; SettingsError if it cannot be read or is not UTF-8."""
    try:
        return Path(name).expanduser().read_bytes().decode()
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 (byte {error.start})"
    raise SettingsError(f"{flag}: {name} cannot be read: {reason}")


def unescape(text: str, flag: str) -> str:
    r"""Return a text with ``\n``, ``\r``, ``\t``, ``\'``, ``\"``, ``\\`` and ``\xHH`` replaced.

    ``\xHH`` is one byte of UTF-8. Other backslashes are kept.

    Raises
    ------
    SettingsError
        The bytes are not valid UTF-8; the message names ``flag``.
    """

    def replacement(match: re.Match[str]) -> bytes:
        byte, letter = match.groups()
        return bytes([int(byte, 16)]) if byte else _ESCAPED.get(letter, letter).encode()

    raw, end = b"", 0
    for match in _ESCAPE.finditer(text):
        raw += text[end : match.start()].encode() + replacement(match)
        end = match.end()
    try:
        return (raw + text[end:].encode()).decode()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{flag}: byte {error.start} is not valid UTF-8") from None


def parse_cpu_mask(text: str) -> frozenset[int]:
    """Return the processors in a hexadecimal mask, ``0x5`` or ``5``: bit i stands for processor i."""
    if not re.fullmatch(rf"(0[xX])?[0-9a-fA-F]{{1,{MAX_CPUS // 4}}}", text) or not (bits := int(text, 16)):
        raise ValueError("is not a hexadecimal mask of processors such as 0xff")
    return frozenset(i for i in range(bits.bit_length()) if bits >> i & 1)


def parse_cpu_range(text: str) -> frozenset[int]:
    """Return the processors in a range, ``2-5``; a missing bound is the lowest or highest possible number."""
    match = re.fullmatch(r"(\d{0,4})-(\d{0,4})", text)
    if match is None or text == "-":
        raise ValueError(_NOT_A_RANGE)
    low, high = int(match[1] or 0), int(match[2] or MAX_CPUS - 1)
    if not low <= high < MAX_CPUS:
        raise ValueError(_NOT_A_RANGE)
    return frozenset(range(low, high + 1))


def parse_proportions(text: str) -> tuple[float, ...]:
    """Return the numbers in a list of proportions, ``3,1`` or ``3/1``."""
    try:
        proportions = tuple(float(part) for part in re.split("[,/]", text))
    except ValueError:
        proportions = ()
    if not any(proportions) or not all(part >= 0 and math.isfinite(part) for part in proportions):
        raise ValueError("is not a list of proportions such as 3,1")
    return proportions


def parse_gpu_layers(text: str) -> int | None:
    """Return a number of layers: None for ``auto`` and -1 for ``all``."""
    if text in ("auto", "all"):
        return None if text == "auto" else -1
    if not re.fullmatch(r"-1|\d{1,9}", text):
        raise ValueError("is not a number of layers, auto or all")
    return int(text)


def parse_layers(text: str) -> tuple[int, int]:
    """Return the first and the last layer of a range, ``5-12``."""
    match = re.fullmatch(r"(\d{1,6})-(\d{1,6})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise ValueError("is not a range of layers such as 5-12")
    return int(match[1]), int(match[2])


def parse_queue_limit(text: str) -> tuple[int, int]:
    """Return the priority and the number of requests in a limit, ``1=100``."""
    match = re.fullmatch(r"(-?\d{1,2})=(\d{1,7})", text)
    if match is None or int(match[1]) not in PRIORITIES:
        allowed = f"from {PRIORITIES.start} to {PRIORITIES.stop - 1}"
        raise ValueError(f"is not a priority ({allowed}) and a number of requests such as 1=100")
    return int(match[1]), int(match[2])


def parse_slots(number: int) -> int | None:
    """Return a number of slots: None for -1."""
    if number == 0:
        raise ValueError("is not a number of slots; -1 stands for the default")
    return None if number < 0 else number


def parse_slowdown(number: float) -> float | None:
    """Return a factor of more than 1: None for 0."""
    if 0 < number <= 1:
        raise ValueError("is not more than 1; 0 stands for no limit")
    return number or None


def parse_yarn_factor(number: float) -> float | None:
    """Return a factor or a number of rotations: None for -1."""
    if number != -1 and number < 1e-6:
        raise ValueError("is not a positive number; -1 stands for that of the model")
    return None if number == -1 else number


def parse_on_off_auto(text: str) -> bool | None:
    """Return True for on, False for off and None for ``auto``."""
    if text.lower() not in BOOLEANS | {"auto": None}:
        raise ValueError("is not one of on, off, auto")
    return BOOLEANS.get(text.lower())


def parse_on_off(text: str) -> bool:
    """Return True for on and False for off."""
    if text.lower() not in BOOLEANS:
        raise ValueError("is not one of on, off")
    return BOOLEANS[text.lower()]


def parse_path_prefix(text: str) -> str:
    """Return the start of URL paths, with a slash at its start and none at its end; "" for none."""
    path = text.strip("/")
    if not path.isascii() or "//" in path or any(character in path for character in "?#%{}\\ "):
        raise ValueError("is not a path such as /llm")
    return f"/{path}" if path else ""


def split_list(opt: Option, values: Iterable[Any]) -> list[Any]:
    """Return the values of an option that may be repeated; each is a list of values itself, if it has ``split``."""
    if not opt.split:
        return list(values)
    parts = (re.split(f",(?={opt.item})", value) if isinstance(value, str) else [value] for value in values)
    return [part.strip() if isinstance(part, str) and not opt.item else part for each in parts for part in each]


def _to_bool(text: str, source: str) -> bool:
    try:
        return BOOLEANS[text.lower()]
    except KeyError:
        raise SettingsError(f"{source}: {text!r} is not one of {', '.join(BOOLEANS)}") from None


def _format_number(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"
