"""Helpers for tests of command-line flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llamafw.chat_settings import parse_json_object
from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.read_settings import settings_from
from llamafw.options import (
    Option,
    parse_cpu_mask,
    parse_cpu_range,
    parse_gpu_layers,
    parse_layers,
    parse_on_off,
    parse_on_off_auto,
    parse_path_prefix,
    parse_proportions,
    parse_queue_limit,
    parse_slowdown,
)
from llamafw.settings import Settings

SAMPLE_TEXTS: dict[Callable[[str], Any], str] = {
    parse_cpu_mask: "0x3",
    parse_cpu_range: "0-1",
    parse_proportions: "3,1",
    parse_queue_limit: "1=100",
    parse_on_off: "on",
    parse_on_off_auto: "off",
    parse_layers: "5-12",
    parse_gpu_layers: "3",
    parse_path_prefix: "/llm",
    parse_json_object: '{"enable_thinking": false}',
}
"""A valid text for each parser that an option can have."""
SAMPLE_NUMBERS: dict[Any, float] = {parse_slowdown: 1.5}
"""A valid number for parsers that refuse 1."""


def sample_value(opt: Option) -> bool | int | float | str:
    """Return a valid value of an option, different from its default if possible."""
    if opt.type is bool:
        return True
    if opt.type is str:
        return SAMPLE_TEXTS[opt.parse] if opt.parse else (opt.choices or ("word",))[-1]
    if opt.parse in SAMPLE_NUMBERS:
        return SAMPLE_NUMBERS[opt.parse]
    number: int | float = opt.type(1 if opt.low is None or opt.low < 1 <= (opt.high or 1) else opt.low)
    return number


def parse_settings(*argv: str, **environ: str) -> Settings:
    """Return the settings that result from a command line and an environment."""
    parser = CommandParser("llamafw serve", "")
    add_settings(parser)
    return settings_from(parser.parse(argv), environ)
