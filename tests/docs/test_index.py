"""Tests that the command lines in the README and on docs/index.md are valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.read_settings import settings_from

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/index.md", "docs/models.md")


@pytest.mark.parametrize("page", PAGES)
def test_serve_commands_have_valid_flags(page: str) -> None:
    commands = re.findall(r"^llamafw serve.*$", (ROOT / page).read_text("utf-8"), re.M)
    assert commands

    for command in commands:
        parser = CommandParser("llamafw serve", "")
        add_settings(parser)
        settings_from(parser.parse(shlex.split(command, comments=True)[2:]), {})
