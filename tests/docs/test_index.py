"""Tests that the command lines and flags in the README and in pages of docs are valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.read_settings import settings_from
from llamafw.cli.refused import REFUSED_FLAGS
from llamafw.settings import options

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/index.md", "docs/models.md", "docs/llama-server.md")
VARIABLES = {name for opt in options().values() for name in (opt.env, opt.off_env)}


@pytest.mark.parametrize("page", PAGES)
def test_serve_commands_have_valid_flags(page: str) -> None:
    commands = re.findall(r"^ *((?:\w+=\S+ )*)llamafw serve(.*)$", (ROOT / page).read_text("utf-8"), re.M)
    assert commands

    for variables, flags in commands:
        environ = dict(word.split("=", 1) for word in variables.split())
        assert set(environ) <= VARIABLES
        parser = CommandParser("llamafw serve", "")
        add_settings(parser)
        settings_from(parser.parse(shlex.split(flags, comments=True)), environ)


def test_flags_on_the_page_of_llama_server_exist_or_are_refused() -> None:
    page = (ROOT / "docs/llama-server.md").read_text("utf-8")
    table = page.partition("## What is not supported\n")[2].partition("\n\nValues that ask for nothing")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    refused = set(re.findall(r"`(-[\w-]+)`", "".join(rows)))
    assert len(refused) > 10
    assert refused <= set(REFUSED_FLAGS)

    flags = {flag for opt in options().values() for flag in (*opt.flags, *opt.off_flags)}
    named = set(re.findall(r"`(--?[a-z][\w-]*)", page)) - {"--help"}
    assert named - flags <= set(REFUSED_FLAGS)
