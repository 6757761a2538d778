"""Values that flags take, for tests that go through the whole table."""

from __future__ import annotations

from llamafw.cli.parser import Parser, add_settings, settings_from
from llamafw.options import Option, mask, shares, span, switch
from llamafw.settings import Settings

PARSED = {mask: "0x3", span: "0-1", shares: "3,1", switch: "off"}


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
