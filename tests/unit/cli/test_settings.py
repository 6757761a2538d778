"""Flags, environment variables and defaults."""

from __future__ import annotations

import logging

import pytest

from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.read_settings import overridden_variables
from llamafw.engine.backend_options import backend_options
from llamafw.errors import SettingsError
from llamafw.options import Option
from llamafw.settings import Settings, options
from support import flags
from support.flags import parse_settings


@pytest.mark.inventory("C-016", "C-018", "C-019", "C-044")
def test_flags_have_the_names_of_llama_server() -> None:
    settings = parse_settings(*"-m x.gguf -c 100 -np 3 -t 2 -tb 1 -b 64 -ub 32 -n -2".split())
    assert (settings.model, settings.ctx_size, settings.parallel, settings.threads) == ("x.gguf", 100, 3, 2)
    assert (settings.threads_batch, settings.batch_size, settings.ubatch_size, settings.predict) == (1, 64, 32, -2)
    backend = backend_options(settings, 8192)
    assert (backend.n_slots, backend.n_ctx, backend.n_threads, backend.n_ubatch) == (3, 33, 2, 32)


WITH_VARIABLE = [(name, opt) for name, opt in options().items() if opt.env and name != "config"]  # see test_config.py


@pytest.mark.parametrize(("name", "opt"), WITH_VARIABLE)
def test_an_environment_variable_sets_what_its_flag_sets(name: str, opt: Option) -> None:
    text = {bool: "true", int: "7", float: "0.5" if opt.parse is None else "1.5"}.get(opt.type) or str(
        flags.sample_value(opt)
    )
    by_flag = parse_settings(opt.flags[-1], *(() if opt.type is bool else (text,)))
    by_variable = parse_settings(**{str(opt.env): text})
    assert getattr(by_variable, name) == getattr(by_flag, name)
    default = getattr(Settings(), name)
    assert getattr(by_flag, name) != default or default is True


SWITCHES = [(name, opt) for name, opt in options().items() if opt.off_flags]


@pytest.mark.inventory("C-096", "C-101")
@pytest.mark.parametrize(("name", "opt"), SWITCHES)
def test_a_switch_can_be_turned_off(name: str, opt: Option) -> None:
    for flag in opt.off_flags:
        assert getattr(parse_settings(flag), name) is False
        assert getattr(parse_settings(flag, opt.flags[-1]), name) is True  # the last one wins
        assert getattr(parse_settings(opt.flags[-1], flag), name) is False
    if opt.off_env:
        assert getattr(parse_settings(**{opt.off_env: "1"}), name) is False
        assert getattr(parse_settings(opt.flags[-1], **{opt.off_env: "1"}), name) is True


@pytest.mark.inventory("B-09")
def test_a_flag_wins_over_the_environment() -> None:
    assert parse_settings("--port", "1", LLAMA_ARG_PORT="2").port == 1
    assert parse_settings(LLAMA_ARG_PORT="2").port == 2


def test_lists_in_the_environment_are_separated_by_commas() -> None:
    assert parse_settings(LLAMAFW_PLUGINS="a, b").plugin == ("a", "b")
    assert parse_settings("--plugin", "a", "--plugin", "b").plugin == ("a", "b")


@pytest.mark.inventory("C-108")
def test_lists_of_keys_origins_and_names_are_separated_by_commas() -> None:
    assert parse_settings(LLAMA_API_KEY="a, b").api_key == ("a", "b")
    assert parse_settings("--api-key", "a,b", "--api-key", "c").api_key == ("a", "b", "c")
    assert parse_settings("--cors-origins", "https://a,https://b").cors_origins == ("https://a", "https://b")
    assert parse_settings("-a", "one,two").alias == ("one", "two")
    assert parse_settings("--tags", "x, y").tags == ("x", "y")


@pytest.mark.inventory("T-14")
def test_vertex_ai_sets_the_port() -> None:
    vertex = {"AIP_MODE": "PREDICTION", "LLAMA_ARG_PORT": "1"}
    assert parse_settings(**vertex, AIP_HTTP_PORT="7080").port == 7080
    assert parse_settings(**vertex).port == 8080
    assert parse_settings("--port", "2", **vertex, AIP_HTTP_PORT="7080").port == 2
    assert parse_settings(LLAMA_ARG_PORT="1", AIP_HTTP_PORT="7080").port == 1
    with pytest.raises(SettingsError, match="AIP_HTTP_PORT: 99999 is out of range"):
        parse_settings(**vertex, AIP_HTTP_PORT="99999")


@pytest.mark.inventory("O-06")
@pytest.mark.parametrize(
    ("text", "prefix"), [("/llm", "/llm"), ("llm/v1/", "/llm/v1"), ("/", ""), ("", ""), ("/a.b-c_d~e", "/a.b-c_d~e")]
)
def test_a_prefix_is_a_path(text: str, prefix: str) -> None:
    assert parse_settings("--api-prefix", text).api_prefix == prefix


@pytest.mark.parametrize("text", ["/a?b", "/a b", "/a//b", "/ä", "/{a}", "/a%20", "#"])
def test_prefixes_that_are_not_paths_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--api-prefix: .* is not a path such as /llm"):
        parse_settings("--api-prefix", text)


def test_long_flags_take_equals_signs_and_underscores() -> None:
    assert parse_settings("--ctx_size=64").ctx_size == 64


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--porl", "1"], "serve: unknown flag --porl; did you mean --port?"),
        (["--port"], "serve: --port needs a value"),
        (["--port", "x"], "--port: 'x' is not a whole number"),
        (["--port", "70000"], "--port: 70000 is out of range (from 0 to 65535)"),
        (["-np", "0"], "--parallel: 0 is not a number of slots; -1 stands for the default"),
        (
            ["--max-queue-priority", "1"],
            "--max-queue-priority: '1' is not a priority (from -20 to 19) and a number of requests such as 1=100",
        ),
        (
            ["--max-queue-priority", "1=2,20=5"],
            "--max-queue-priority: '20=5' is not a priority (from -20 to 19) and a number of requests such as 1=100",
        ),
        (["--prompt-slowdown", "1"], "--prompt-slowdown: 1.0 is not more than 1; 0 stands for no limit"),
        (["--priority-aging", "0"], "--priority-aging: 0.0 is out of range (from 0.001 to 2147483648)"),
        (["--temp", "nan"], "--temperature: nan is out of range (from -1000 to 1000)"),
        (["-ctk", "q6"], "--cache-type-k: 'q6' is not one of f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1"),
        (["word"], "serve: unexpected argument word; use -m FILE or -hf USER/REPO to name a model"),
        (["-fq"], "serve: unknown flag -fq; `llamafw serve --help` lists the flags"),  # not read as -f q
        (["-C", "xyz"], "--cpu-mask: 'xyz' is not a hexadecimal mask of processors such as 0xff"),
        (["-Cr", "3-1"], "--cpu-range: '3-1' is not a range of processors such as 0-3"),
        (["-ts", "0,0"], "--tensor-split: '0,0' is not a list of proportions such as 3,1"),
        (["-fa", "maybe"], "--flash-attn: 'maybe' is not one of on, off, auto"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(argv: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(*argv)
    assert str(caught.value) == message


@pytest.mark.parametrize("form", ["{} {}", "{}={}"])
@pytest.mark.parametrize(
    ("flag", "value", "field", "expected"),
    [
        ("--max-queue-priority", "-5=3,1=2", "max_queue_priority", ((-5, 3), (1, 2))),
        ("--presence-penalty", "-1e-1", "presence_penalty", -0.1),
        ("--frequency-penalty", "-.5", "frequency_penalty", -0.5),
        ("--repeat-last-n", "-1", "repeat_last_n", -1),
    ],
)
def test_values_may_begin_with_a_minus_sign(flag: str, value: str, field: str, expected: object, form: str) -> None:
    assert getattr(parse_settings(*form.format(flag, value).split()), field) == expected


def test_flags_set_the_defaults_of_request_fields() -> None:
    assert parse_settings("--temp", "0", "--top-k", "5").request_defaults() == {"temperature": 0.0, "top_k": 5}
    assert parse_settings("--penalize-nl").request_defaults() == {"penalize_nl": True}
    assert parse_settings().request_defaults() == {}


def test_without_a_context_size_each_slot_has_the_whole_context() -> None:
    backend = backend_options(Settings(), 8192)
    assert (backend.n_slots, backend.n_ctx) == (4, 8192)
    assert backend_options(parse_settings("-np", "2"), 8192).n_ctx == 4096


def test_a_context_must_have_room_for_all_slots() -> None:
    with pytest.raises(SettingsError, match="-c 1 "):
        backend_options(parse_settings("-c", "1", "-np", "2"), 8192)


def test_encoders_have_many_slots_of_the_whole_context() -> None:
    options = backend_options(Settings(), 512, is_encoder=True)
    assert (options.n_slots, options.n_ctx) == (64, 512)
    options = backend_options(parse_settings("-c", "300", "-np", "2"), 512, is_encoder=True)
    assert (options.n_slots, options.n_ctx) == (2, 300)


@pytest.mark.inventory("B-09")
def test_variables_that_flags_override_are_reported() -> None:
    parser = CommandParser("llamafw serve", "")
    add_settings(parser)
    environ = {"LLAMA_ARG_PORT": "2", "LLAMA_ARG_THREADS": "3", "LLAMA_ARG_NO_MMAP": "1", "LLAMA_ARG_CTX_SIZE": "64"}
    sentences = overridden_variables(parser.parse(["--port", "1", "-t", "3", "--mmap"]), environ)
    assert set(sentences) == {
        "the environment variable LLAMA_ARG_PORT is overridden by --port on the command line",
        "the environment variable LLAMA_ARG_NO_MMAP is overridden by --mmap on the command line",
    }


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("No", False), ("TRUE", True), ("off", False), ("1", True)])
def test_switches_in_the_environment_are_words_or_digits(word: str, value: bool) -> None:
    assert parse_settings(LLAMA_ARG_CONT_BATCHING=word).cont_batching is value
    assert parse_settings(LLAMA_ARG_NO_CONT_BATCHING=word).cont_batching is not value


def test_another_word_for_a_switch_is_refused() -> None:
    with pytest.raises(SettingsError, match="^LLAMA_ARG_CONT_BATCHING: 'perhaps' is not one of 1, true, on"):
        parse_settings(LLAMA_ARG_CONT_BATCHING="perhaps")


@pytest.mark.inventory("C-069")
@pytest.mark.parametrize(
    ("settings", "level"),
    [
        (Settings(), logging.INFO),
        (Settings(verbose=True), logging.DEBUG),
        (Settings(verbosity=0), logging.CRITICAL + 1),
        (Settings(verbosity=1), logging.ERROR),
        (Settings(verbosity=2), logging.WARNING),
        (Settings(verbosity=3), logging.INFO),
        (Settings(verbosity=4), logging.DEBUG),
        (Settings(verbosity=5), logging.DEBUG),
        (Settings(verbosity=99), logging.DEBUG),
        (Settings(verbosity=-1), logging.CRITICAL + 1),
        (Settings(verbosity=-1, verbose=True), logging.DEBUG),
    ],
)
def test_verbosity_sets_the_log_level(settings: Settings, level: int) -> None:
    assert settings.log_level == level
