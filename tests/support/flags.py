"""Values that flags take, for tests that go through the whole table."""

from __future__ import annotations

from llamafw.cli.parser import Parser, add_settings
from llamafw.cli.read_settings import settings_from
from llamafw.options import Option, parse_cpu_mask, parse_cpu_range, parse_on_off_auto, parse_proportions
from llamafw.settings import Settings

PARSED = {parse_cpu_mask: "0x3", parse_cpu_range: "0-1", parse_proportions: "3,1", parse_on_off_auto: "off"}


def value(opt: Option) -> bool | int | float | str:
    """Return a value that the option takes, and that is none of the defaults if there is another."""
    if opt.type is bool:
        return True
    if opt.type is str:
        return PARSED[opt.parse] if opt.parse else (opt.choices or ("word",))[-1]
    number: int | float = opt.type(1 if opt.low is None or opt.low < 1 <= (opt.high or 1) else opt.low)
    return number


def parse(*argv: str, **environ: str) -> Settings:
    """Return what the server makes of a command line and an environment."""
    parser = Parser("llamafw serve", "")
    add_settings(parser)
    return settings_from(parser.parse(argv), environ)
