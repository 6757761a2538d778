"""Suggestions for mistyped names: near names are found, and names that are not near are not."""

from __future__ import annotations

import pytest

from llamafw.cli.parser import CommandParser, add_settings, nearest_flag
from llamafw.errors import SettingsError, did_you_mean, suggest
from llamafw.near_names import edit_distance, nearest


def serve_parser() -> CommandParser:
    parser = CommandParser("llamafw serve", "")
    add_settings(parser)
    return parser


@pytest.mark.parametrize(
    ("typed", "flag"),
    [
        ("--prot", "--port"),  # two neighbours swapped
        ("--pot", "--port"),  # a letter is missing
        ("--porrt", "--port"),  # a letter too many
        ("--porl", "--port"),  # a wrong letter; --poll is equally near, but shares fewer letters at the beginning
        ("--hst", "--host"),
        ("--modle", "--model"),
        ("--tmep", "--temp"),
        ("--tread", "--threads"),  # two edits in a name of seven letters
        ("--ctx_sise", "--ctx-size"),
        ("--apikey", "--api-key"),
        ("--n-gpu-layer", "--n-gpu-layers"),
        ("--PORT", "--port"),
        ("--slot-prompt", "--slot-prompt-similarity"),  # abbreviates only one flag
        ("--batch", "--batch-size"),
        ("--hosts", "--host"),  # one flag abbreviates it
        ("--host-name", "--host"),
        ("-pn", "-np"),
        ("-bu", "-ub"),
        ("-port", "--port"),
        ("-prot", "--port"),
        ("--np", "-np"),
        ("--m", "-m"),
    ],
)
def test_mistyped_flags_are_suggested(typed: str, flag: str) -> None:
    with pytest.raises(SettingsError) as caught:
        serve_parser().parse([typed, "1"])
    assert str(caught.value).endswith(f"unknown flag {typed.replace('_', '-')}; did you mean {flag}?")


@pytest.mark.parametrize(
    "typed",
    [
        "--gadget",
        "--foo",
        "--x",
        "-x",
        "-fq",
        "-zz",
        "--dtype",
        "--workers",
        "--quantization",
        "--context-size",  # not --context-shift
        "--max-tokens",
        "--max-model-len",
        "--tensor-parallel-size",  # not --tensor-split
        "--gpu-memory-utilization",
        "--served-model-name",
        "--trust-remote-code",
        "--verb",  # abbreviates three flags
        "--log",
    ],
)
def test_no_flag_is_suggested_if_none_is_near(typed: str) -> None:
    with pytest.raises(SettingsError) as caught:
        serve_parser().parse([typed, "1"])
    assert str(caught.value) == f"serve: unknown flag {typed}; `llamafw serve --help` lists the flags"


@pytest.mark.parametrize("flag", ["--port", "-np", "--n-gpu-layers"])
def test_the_nearest_flag_of_a_flag_is_itself(flag: str) -> None:
    assert nearest_flag(flag, serve_parser()._option_string_actions) == flag


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("top_q", ["top_p", "top_k", "min_p"], ["top_p", "top_k"]),
        ("top-k", ["top_k", "min_p"], ["top_k"]),
        ("temprature", ["temperature", "top_k"], ["temperature"]),
        ("chatmll", ["chatml", "llama3"], ["chatml"]),
        ("smollm2", ["smollm2-135m"], ["smollm2-135m"]),
        ("serv", ["serve", "pull"], ["serve"]),
        ("srve", ["serve", "pull"], ["serve"]),
        ("server", ["serve", "pull"], ["serve"]),
        ("stopping", ["stop", "top"], ["stop"]),
        ("topping", ["top", "pull"], []),
        ("run", ["serve", "pull", "bench"], []),
        ("json", ["gbnf", "lark"], []),
        ("ab", ["cd", "ba"], ["ba"]),
        ("a", ["b", "c"], []),
        ("", ["a", "ab"], []),
        ("name", [], []),
    ],
)
def test_nearest_names_are_found(name: str, known: list[str], found: list[str]) -> None:
    assert nearest(name, known, n=3) == found


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [("", "", 0), ("", "abc", 3), ("port", "port", 0), ("prot", "port", 1), ("kitten", "sitting", 3), ("ca", "abc", 3)],
)
def test_edit_distance_counts_edits(a: str, b: str, edits: int) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == edits


def test_messages_end_with_a_suggestion_or_all_names() -> None:
    assert did_you_mean("helo", ["hello", "bye"]) == "; did you mean 'hello'?"
    assert did_you_mean("zzz", ["hello", "bye"]) == ""
    assert suggest("helo", ["hello", "bye"]) == "; did you mean 'hello'?"
    assert suggest("zzz", ["hello", "bye"]) == "; available: hello, bye"
    assert suggest("zzz", []) == "; available: none"


def test_names_of_very_different_length_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing a very long name from a client letter by letter would take seconds."""
    monkeypatch.setattr("llamafw.near_names.edit_distance", None)
    assert nearest("x" * 1_000_000, [f"field_{i}" for i in range(200)]) == []
