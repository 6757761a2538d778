"""Every flag of llama-server's documentation of October 2024 is here under all its names, or is refused with a reason.

`flags.txt` has a row per line: number, flags, environment variable.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llamafw.cli.parser import Parser, add_settings, settings_from
from llamafw.cli.refused import REFUSED, VARIABLES
from llamafw.errors import SettingsError
from llamafw.options import Option
from llamafw.settings import options

ROWS = [line.split() for line in Path(__file__).with_name("flags.txt").read_text().splitlines()]
COMMAND = {"-h", "--help", "--usage", "--version"}  # not settings, but what the command does


def by_flag() -> dict[str, tuple[Option, str | None]]:
    """Return the option of each flag, with the variable that says the same."""
    found: dict[str, tuple[Option, str | None]] = {}
    for opt in options().values():
        found |= dict.fromkeys(opt.flags, (opt, opt.env)) | dict.fromkeys(opt.off, (opt, opt.off_env))
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_is_there_or_refused(row: list[str]) -> None:
    flags, variables = [word for word in row[1:] if word[0] == "-"], [word for word in row[1:] if word[0] != "-"]
    assert flags
    if flags[0] in REFUSED:
        assert REFUSED.keys() >= set(flags)
        assert {VARIABLES[variable] for variable in variables} <= set(flags)
        return
    if flags[0] in COMMAND:
        return
    table = by_flag()
    assert len({id(table[flag][0]) for flag in flags}) == 1, "they set different things"
    assert {table[flag][1] for flag in flags} == {*variables} or not variables
    assert all(table[flag][1] is None or table[flag][1].startswith(("LLAMA", "HF_")) for flag in flags)  # type: ignore[union-attr]


def test_there_are_122_rows() -> None:
    assert [row[0] for row in ROWS] == [f"C-{i:03}" for i in range(1, 123)]


REFUSED_ROWS = {
    "C-037": "-gan",
    "C-038": "--grp-attn-w",
    "C-043": "-dt",
    "C-054": "--lora",
    "C-055": "--lora-scaled",
    "C-056": "--control-vector",
    "C-057": "--control-vector-scaled",
    "C-058": "--control-vector-layer-range",
    "C-122": "--lora-init-without-apply",
}


@pytest.mark.parametrize(
    "flag", [pytest.param(flag, marks=pytest.mark.inventory(row)) for row, flag in REFUSED_ROWS.items()]
)
def test_what_is_not_supported_is_refused_in_one_line(flag: str) -> None:
    for words in ([flag], [flag, "2"], [f"{flag}=2"]):
        parser = Parser("llamafw serve", "")
        add_settings(parser)
        with pytest.raises(SettingsError, match="support|defragment") as caught:
            parser.parse(words)
        assert str(caught.value).startswith(f"serve: {flag}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.inventory("C-037", "C-038", "C-043", "K-11")
def test_what_is_not_supported_is_refused_in_the_environment() -> None:
    for variable in VARIABLES:
        with pytest.raises(SettingsError, match=f"^{variable}: "):
            settings_from(Parser("llamafw serve", "").parse([]), {variable: "2"})
        settings_from(Parser("llamafw serve", "").parse([]), {variable: ""})


def test_a_refused_flag_ends_the_start_with_code_1() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llamafw", "serve", "--lora", "x.gguf"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "--lora: LoRA adapters are not supported yet" in done.stderr
