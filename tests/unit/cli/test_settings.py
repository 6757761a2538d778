"""Flags, environment and defaults."""

from __future__ import annotations

import pytest

from llamafw.cli.parser import Parser, add_settings, overruled
from llamafw.engine.backend_options import backend_options
from llamafw.errors import SettingsError
from llamafw.settings import Settings, options
from support import flags
from support.flags import parse


@pytest.mark.inventory("C-016", "C-018", "C-019", "C-044")
def test_flags_have_llama_servers_names() -> None:
    settings = parse(*"-m x.gguf -c 100 -np 3 -t 2 -tb 1 -b 64 -ub 32 -n -2".split())
    assert (settings.model, settings.ctx_size, settings.parallel, settings.threads) == ("x.gguf", 100, 3, 2)
    assert (settings.threads_batch, settings.batch_size, settings.ubatch_size, settings.predict) == (1, 64, 32, -2)
    options = backend_options(settings, 8192)
    assert (options.n_slots, options.n_ctx, options.n_threads, options.n_ubatch) == (3, 33, 2, 32)


def test_every_environment_variable_sets_what_its_flag_sets() -> None:
    for name, opt in options().items():
        if opt.env is None or name == "config":  # must be there: test_config.py
            continue
        text = {bool: "true", int: "7", float: "0.5"}.get(opt.type) or str(flags.value(opt))
        default = getattr(Settings(), name)
        by_flag = parse(opt.flags[-1], *(() if opt.type is bool else (text,)))
        by_environment = parse(**{opt.env: text})
        assert getattr(by_environment, name) == getattr(by_flag, name), name
        assert getattr(by_flag, name) != default or default is True, name


@pytest.mark.inventory("C-096", "C-101")
def test_what_is_on_can_be_turned_off() -> None:
    for name, opt in options().items():
        for flag in opt.off:
            assert getattr(parse(flag), name) is False
            assert getattr(parse(flag, opt.flags[-1]), name) is True  # the last one wins
            assert getattr(parse(opt.flags[-1], flag), name) is False
        if opt.off_env:
            assert getattr(parse(**{opt.off_env: "1"}), name) is False
            assert getattr(parse(opt.flags[-1], **{opt.off_env: "1"}), name) is True


@pytest.mark.inventory("B-09")
def test_a_flag_wins_over_the_environment() -> None:
    assert parse("--port", "1", LLAMA_ARG_PORT="2").port == 1
    assert parse(LLAMA_ARG_PORT="2").port == 2


def test_lists_in_the_environment_are_separated_by_commas() -> None:
    assert parse(LLAMAFW_PLUGINS="a, b").plugin == ("a", "b")
    assert parse("--plugin", "a", "--plugin", "b").plugin == ("a", "b")


@pytest.mark.inventory("C-108")
def test_the_environment_has_one_api_key_and_commas_are_part_of_it() -> None:
    assert parse(LLAMA_API_KEY="a,b").api_key == ("a,b",)
    assert parse("--api-key", "a,b", "--api-key", "c").api_key == ("a,b", "c")


def test_equals_and_underscores_work() -> None:
    assert parse("--ctx_size=64").ctx_size == 64


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--porl", "1"], "unknown flag --porl; did you mean --port?"),
        (["--port"], "expected one argument"),
        (["--port", "x"], "'x' is not a whole number"),
        (["--port", "70000"], "out of range"),
        (["-np", "0"], "out of range"),
        (["--temp", "nan"], "out of range"),
        (["-ctk", "q4_0"], "none of f16, f32"),
        (["word"], "unexpected argument word"),
        (["-fq"], "unknown flag -fq; did you mean"),  # not -f q
    ],
)
def test_bad_usage_is_one_clear_line(argv: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match="serve|--") as caught:
        parse(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flags_set_the_defaults_of_request_fields() -> None:
    assert parse("--temp", "0", "--top-k", "5").request_defaults() == {"temperature": 0.0, "top_k": 5}
    assert parse("--penalize-nl").request_defaults() == {"penalize_nl": True}
    assert parse().request_defaults() == {}


def test_without_c_and_np_each_slot_has_the_whole_context() -> None:
    options = backend_options(Settings(), 8192)
    assert (options.n_slots, options.n_ctx) == (4, 8192)
    assert backend_options(parse("-np", "2"), 8192).n_ctx == 4096
    with pytest.raises(SettingsError, match="no room"):
        backend_options(parse("-c", "1", "-np", "2"), 8192)


@pytest.mark.inventory("B-09")
def test_a_flag_that_wins_over_the_environment_is_told() -> None:
    parser = Parser("llamafw serve", "")
    add_settings(parser)
    environ = {"LLAMA_ARG_PORT": "2", "LLAMA_ARG_THREADS": "3", "LLAMA_ARG_NO_MMAP": "1", "LLAMA_ARG_CTX_SIZE": "64"}
    told = overruled(parser.parse(["--port", "1", "-t", "3", "--mmap"]), environ)
    assert set(told) == {
        "LLAMA_ARG_PORT is set, but --port on the command line wins",
        "LLAMA_ARG_NO_MMAP is set, but --mmap on the command line wins",
    }


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("No", False), ("TRUE", True), ("off", False), ("1", True)])
def test_what_is_on_in_the_environment(word: str, value: bool) -> None:
    assert parse(LLAMA_ARG_CONT_BATCHING=word).cont_batching is value
    assert parse(LLAMA_ARG_NO_CONT_BATCHING=word).cont_batching is not value
    with pytest.raises(SettingsError, match="^LLAMA_ARG_CONT_BATCHING: 'perhaps' is none of"):
        parse(LLAMA_ARG_CONT_BATCHING="perhaps")
