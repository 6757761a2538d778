"""Settings that are wrong for every model end ``llamafw serve`` with one line, before it looks for a model."""

from __future__ import annotations

import logging

import pytest

from llamafw.cli import main


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-f", "/nope"], "--file: /nope cannot be read"),
        (["-p", "a", "-bf", "b"], "--prompt and --binary-file cannot be used together"),
        (["-spf", "/nope"], "--system-prompt-file: /nope cannot be read"),
        (["--grammar-file", "/nope"], "--grammar-file: /nope cannot be read"),
        (["--grammar", "root ::= [a]", "-j", "{}"], "--grammar and --json-schema cannot be used together"),
        (["--grammar-file", "x", "-j", "{}"], "--grammar-file and --json-schema cannot be used together"),
        (["-l", "x"], "--logit-bias: 'x' must look like TOKEN+BIAS or TOKEN-BIAS, such as 15043+1"),
        (["--override-kv", "a"], "--override-kv a: it must look like KEY=TYPE:VALUE"),
    ],
)
def test_a_wrong_setting_is_reported_before_a_missing_model(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamafw.cli.serve.set_up_logging", lambda settings: None)  # pytest has set it up
    assert main(["serve", "-m", "/no/model.gguf", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"llamafw: {message}"), err


@pytest.mark.parametrize(("argv", "n_warnings"), [([], 0), (["--jinja"], 0), (["--no-jinja"], 1)])
def test_no_jinja_is_accepted_with_a_warning(
    argv: list[str], n_warnings: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamafw.cli.serve.set_up_logging", lambda settings: None)
    assert main(["serve", "-m", "/no/model.gguf", *argv]) == 1  # the model is missing, the flag is fine
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["--no-jinja has no effect: chat templates are always rendered with Jinja"] * n_warnings
