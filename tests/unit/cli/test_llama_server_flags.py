"""Every flag in llama-server's documentation of October 2024 exists under all its names, or is refused with a reason.

`llama_server_flags.txt` has one flag per line: its number, its names and its environment variable.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.read_settings import settings_from
from llamafw.cli.refused import REFUSED_FLAGS, REFUSED_VARIABLES
from llamafw.errors import SettingsError
from llamafw.options import Option
from llamafw.settings import options

ROWS = [line.split() for line in Path(__file__).with_name("llama_server_flags.txt").read_text().splitlines()]
COMMAND_FLAGS = {"-h", "--help", "--usage", "--version"}  # flags that are not settings


def options_by_flag() -> dict[str, tuple[Option, str | None]]:
    """Return the option of each flag, and the environment variable that does the same."""
    table: dict[str, tuple[Option, str | None]] = {}
    for opt in options().values():
        table |= dict.fromkeys(opt.flags, (opt, opt.env)) | dict.fromkeys(opt.off_flags, (opt, opt.off_env))
    return table


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_flag_exists_or_is_refused(row: list[str]) -> None:
    flags = [word for word in row[1:] if word.startswith("-")]
    variables = [word for word in row[1:] if not word.startswith("-")]
    assert flags
    if flags[0] in REFUSED_FLAGS:
        assert REFUSED_FLAGS.keys() >= set(flags)
        assert {REFUSED_VARIABLES[variable] for variable in variables} <= set(flags)
        return
    if flags[0] in COMMAND_FLAGS:
        return

    table = options_by_flag()
    assert len({id(table[flag][0]) for flag in flags}) == 1, "the names belong to different settings"
    assert {table[flag][1] for flag in flags} == {*variables} or not variables
    assert all((table[flag][1] or "LLAMA").startswith(("LLAMA", "HF_")) for flag in flags)


def test_the_list_has_122_flags() -> None:
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
@pytest.mark.parametrize("form", ["{}", "{} 2", "{}=2"])
def test_a_flag_that_is_not_supported_is_refused_in_one_line(flag: str, form: str) -> None:
    parser = CommandParser("llamafw serve", "")
    add_settings(parser)
    with pytest.raises(SettingsError) as caught:
        parser.parse(form.format(flag).split())
    assert str(caught.value) == f"serve: {flag}: {REFUSED_FLAGS[flag]}"


def test_reasons_say_what_is_not_supported() -> None:
    assert REFUSED_FLAGS
    assert all("not supported" in reason and "\n" not in reason for reason in REFUSED_FLAGS.values())


@pytest.mark.inventory("C-037", "C-038", "C-043", "K-11")
@pytest.mark.parametrize("variable", REFUSED_VARIABLES)
def test_a_variable_that_is_not_supported_is_refused(variable: str) -> None:
    args = CommandParser("llamafw serve", "").parse([])
    with pytest.raises(SettingsError, match=f"^{variable}: "):
        settings_from(args, {variable: "2"})
    settings_from(args, {variable: ""})


def test_a_refused_flag_exits_with_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llamafw", "serve", "--lora", "x.gguf"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--lora: LoRA adapters are not supported yet" in done.stderr
