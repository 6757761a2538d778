"""Every flag of llama-server exists under all its names, or is refused with a reason.

`llama_server_flags.txt` has the flags of October 2024, one per line: the number, the names, and the environment
variable. `support/llama_server_flags.txt` has those of a current version, without numbers.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.plugin_flags import COMMAND_FLAGS
from llamafw.cli.read_settings import settings_from
from llamafw.cli.refused import HARMLESS, REFUSED_FLAGS, REFUSED_VARIABLES, add_harmless_flags
from llamafw.errors import SettingsError
from llamafw.options import Option
from llamafw.settings import Settings, options

ROWS = [line.split() for line in Path(__file__).with_name("llama_server_flags.txt").read_text().splitlines()]
TODAY = [
    line.split()
    for line in (Path(__file__).parents[2] / "support/llama_server_flags.txt").read_text().splitlines()
    if not line.startswith("#")
]


def options_by_flag() -> dict[str, tuple[Option, set[str | None]]]:
    """Return the option of each flag, and the environment variables that do the same."""
    table: dict[str, tuple[Option, set[str | None]]] = {}
    for opt in options().values():
        variables, off_variables = {opt.env, *opt.other_env}, {opt.off_env}
        table |= dict.fromkeys(opt.flags, (opt, variables)) | dict.fromkeys(opt.off_flags, (opt, off_variables))
    return table


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_flag_exists_or_is_refused(row: list[str]) -> None:
    flags = [word for word in row[1:] if word.startswith("-")]
    variables = [word for word in row[1:] if not word.startswith("-")]
    assert flags
    if flags[0] in REFUSED_FLAGS:
        assert REFUSED_FLAGS.keys() >= set(flags)
        assert {REFUSED_VARIABLES[variable] for variable in variables} <= {REFUSED_FLAGS[flag] for flag in flags}
        return
    if flags[0] in COMMAND_FLAGS:
        return

    table = options_by_flag()
    assert len({id(table[flag][0]) for flag in flags}) == 1, "the names belong to different settings"
    assert all(table[flag][1] >= {*variables} for flag in flags)


@pytest.mark.parametrize("row", TODAY, ids=lambda row: row[0])
def test_a_flag_of_today_exists_or_is_refused(row: list[str]) -> None:
    """A flag and the one that turns it off have different settings, or one of them is refused."""
    table = options_by_flag()
    flags = [word for word in row if word.startswith("-")]
    variables = {word for word in row if not word.startswith("-")}
    for flag in flags:
        assert (flag in table) + (flag in REFUSED_FLAGS) + (flag in COMMAND_FLAGS) == 1 or flag in HARMLESS
    known = {name for opt in options().values() for name in (opt.env, *opt.other_env, opt.off_env)}
    assert variables <= known | REFUSED_VARIABLES.keys()
    assert not known & REFUSED_VARIABLES.keys()


def test_the_list_of_today_is_complete() -> None:
    assert len(TODAY) == 255
    assert len({flag for row in TODAY for flag in row}) == sum(map(len, TODAY))


def parse_flags(*argv: str) -> Settings:
    parser = CommandParser("llamafw serve", "")
    add_settings(parser)
    add_harmless_flags(parser)
    return settings_from(parser.parse(argv), {})


def test_values_that_ask_for_nothing_are_accepted() -> None:
    flags = [flag for flag in HARMLESS if flag.startswith("-")]
    assert len(flags) > 15
    for flag in flags:
        for value in HARMLESS[flag]:
            assert parse_flags(flag, *[value] * (value != "")) == Settings()
    with pytest.raises(SettingsError, match="^serve: --device: "):
        parse_flags("--device", "CUDA0")


def test_variables_that_ask_for_nothing_are_accepted() -> None:
    args = CommandParser("llamafw serve", "").parse([])
    variables = {name: values[0] for name, values in HARMLESS.items() if not name.startswith("-")}
    assert len(variables) > 8
    assert settings_from(args, variables) == Settings()


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--temperature", "0.3"], "temp", 0.3),
        (["--typical-p", "0.4"], "typical", 0.4),
        (["-ngl", "all"], "gpu_layers", -1),
        (["--n-gpu-layers", "auto"], "gpu_layers", None),
        (["-ngl", "7"], "gpu_layers", 7),
        (["-np", "-1"], "parallel", None),
        (["--load-mode", "none"], "mmap", False),
        (["-lm", "mmap+mlock"], "mlock", True),
        (["-lm", "mlock"], "mmap", False),
        (["--load-mode", "auto", "--no-mmap"], "mmap", False),
        (["--log-colors", "off"], "log_colors", False),
        (["--log-colors"], "log_colors", True),
        (["--log-jsonl"], "log_json", True),
        (["--embd-normalize", "-1"], "embd_normalize", -1),
        (["--log-prompts-dir", "x"], "logdir", "x"),
        (["--reverse-prompt", "a", "-r", "b"], "reverse_prompt", ("a", "b")),
        (["-sm", "tensor"], "split_mode", "tensor"),
        (["-lv", "2"], "log_level", logging.WARNING),
        (["--verbosity", "3"], "log_level", logging.INFO),
        (["--yarn-attn-factor", "-1"], "yarn_attn_factor", None),
        (["--yarn-beta-slow", "-1.0"], "yarn_beta_slow", None),
        (["--yarn-beta-fast", "24"], "yarn_beta_fast", 24.0),
        (["--override-kv", "a.b=bool:false,c=int:5"], "override_kv", ("a.b=bool:false", "c=int:5")),
        (["--override-kv", "a=str:x, y=z ,b=float:2"], "override_kv", ("a=str:x, y=z ", "b=float:2")),
    ],
)
def test_flags_of_today_have_their_meaning(argv: list[str], field: str, value: object) -> None:
    assert getattr(parse_flags(*argv), field) == value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-ngl", "some"], "--n-gpu-layers: 'some' is not a number of layers, auto or all"),
        (["-np", "0"], "--parallel: 0 is not a number of slots; -1 stands for the default"),
        (["--yarn-attn-factor", "0"], "--yarn-attn-factor: 0.0 is not a positive number"),
        (["--yarn-beta-fast", "-2"], "--yarn-beta-fast: -2.0 is out of range"),
        (["-dt", "0.1"], "serve: -dt: not supported: the KV cache consists of pages"),
        (["-lm", "dio"], "--load-mode: 'dio' is not one of auto, none, mmap, mlock, mmap[+]mlock"),
    ],
)
def test_wrong_values_of_these_flags_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}"):
        parse_flags(*argv)


@pytest.mark.parametrize(
    ("variables", "field", "value"),
    [
        ({"LLAMA_ARG_TOP_K": "7"}, "top_k", 7),
        ({"LLAMA_ARG_UI": "0"}, "webui", False),
        ({"LLAMA_ARG_WEBUI": "0"}, "webui", False),
        ({"LLAMA_ARG_LOG_VERBOSITY": "1"}, "verbosity", 1),
        ({"LLAMA_ARG_CACHE_PROMPT": "off"}, "cache_prompt", False),
        ({"LLAMA_ARG_PERF": "0"}, "perf", False),
    ],
)
def test_variables_of_today_have_their_meaning(variables: dict[str, str], field: str, value: object) -> None:
    args = CommandParser("llamafw serve", "").parse([])
    assert getattr(settings_from(args, variables), field) == value


def test_the_list_has_122_flags() -> None:
    assert [row[0] for row in ROWS] == [f"C-{i:03}" for i in range(1, 123)]


REFUSED_ROWS = {
    "C-043": "-dt",
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


@pytest.mark.inventory("C-054", "C-055", "C-056", "C-057", "C-058", "C-122")
@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        ("--lora a.gguf --lora b.gguf,c", "lora", ("a.gguf", "b.gguf", "c")),
        ("--lora-scaled a.gguf:0.5,b.gguf:-1", "lora_scaled", ("a.gguf:0.5", "b.gguf:-1")),
        ("--lora-scaled a.gguf 0.5 --lora-scaled C:/b.gguf:2", "lora_scaled", ("a.gguf:0.5", "C:/b.gguf:2")),
        ("--lora_scaled a.gguf -1e-2", "lora_scaled", ("a.gguf:-1e-2",)),
        ("--lora-init-without-apply", "lora_init_without_apply", True),
        ("--control-vector a.gguf,b.gguf", "control_vector", ("a.gguf", "b.gguf")),
        ("--control-vector-scaled a.gguf 4", "control_vector_scaled", ("a.gguf:4",)),
        ("--control-vector-layer-range 3 7", "control_vector_layer_range", (3, 7)),
        ("--control-vector-layer-range 3-7", "control_vector_layer_range", (3, 7)),
    ],
)
def test_flags_of_adapters_have_both_forms(argv: str, field: str, value: object) -> None:
    parser = CommandParser("llamafw serve", "")
    add_settings(parser)
    assert getattr(settings_from(parser.parse(argv.split()), {}), field) == value


@pytest.mark.inventory("C-058")
@pytest.mark.parametrize("words", ["7 3", "x", "3", "a 3"])
def test_layer_range_must_be_one(words: str) -> None:
    parser = CommandParser("llamafw serve", "")
    add_settings(parser)
    with pytest.raises(SettingsError, match="is not a range of layers|unexpected argument"):
        settings_from(parser.parse(["--control-vector-layer-range", *words.split()]), {})


def test_reasons_say_what_is_not_supported() -> None:
    assert REFUSED_FLAGS
    assert all("not supported" in reason and "\n" not in reason for reason in REFUSED_FLAGS.values())


@pytest.mark.inventory("C-043")
@pytest.mark.parametrize("variable", REFUSED_VARIABLES)
def test_a_variable_that_is_not_supported_is_refused(variable: str) -> None:
    args = CommandParser("llamafw serve", "").parse([])
    with pytest.raises(SettingsError, match=f"^{variable}: "):
        settings_from(args, {variable: "2"})
    settings_from(args, {variable: ""})


def test_a_refused_flag_exits_with_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llamafw", "serve", "--rpc", "x:50052"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--rpc: not supported" in done.stderr
