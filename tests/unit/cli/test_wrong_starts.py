"""What is wrong whatever the model is ends ``llamafw serve`` in a line, before a model is looked for."""

from __future__ import annotations

import pytest

from llamafw.cli import main


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["-f", "/nope"], "--file: /nope cannot be read"),
        (["-p", "a", "-bf", "b"], "--prompt and --binary-file exclude each other"),
        (["-spf", "/nope"], "--system-prompt-file: /nope cannot be read"),
        (["--grammar-file", "/nope"], "--grammar-file: /nope cannot be read"),
        (["--grammar", "root ::= [a]", "-j", "{}"], "either --json-schema or --grammar"),
        (["-l", "x"], "--logit-bias: 'x' is no TOKEN+BIAS or TOKEN-BIAS"),
        (["--override-kv", "a"], "--override-kv a: it must look like KEY=TYPE:VALUE"),
    ],
)
def test_a_wrong_start(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamafw.cli.serve.set_up_logging", lambda settings: None)  # this process has its own
    assert main(["serve", "-m", "/no/model.gguf", *argv]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"llamafw: {told}"), err
