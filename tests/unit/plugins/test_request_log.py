"""The plugin `request_log`: one log line and, with ``--logdir``, one YAML file per generation."""

from __future__ import annotations

import json
import logging
import re
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamafw import Finish, GenerateRequest, Settings, SettingsError, Timings
from llamafw_plugins.request_log import RequestLog, log_speed, write_file

Serve = Callable[..., Any]  # the fixture that serves in this process
Lines = Callable[[], list[Any]]
BODY = {"prompt": "abc", "n_predict": 5, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[Any]]:
    """Return a function that returns the records of the log `llamafw.requests`."""
    caplog.set_level(logging.INFO, logger="llamafw.requests")
    return lambda: [record for record in caplog.records if record.name == "llamafw.requests"]


def read_files(folder: Path) -> list[Any]:
    """Return the contents of the files in a folder, oldest first."""
    return [yaml.safe_load(path.read_text("utf-8")) for path in sorted(folder.iterdir())]


@pytest.mark.inventory("C-023")
async def test_one_line_per_generation_has_its_speed(serve: Serve, lines: Lines) -> None:
    async with serve() as client:
        answer = await client.post("/completion", json=BODY, headers={"x-request-id": "mine"})
        await client.post("/tokenize", json={"content": "a"})
    (record,) = lines()
    assert re.fullmatch(
        r"prompt: \d+ tokens, 0 cached, \d+\.\d tokens/s; response: 5 tokens, \d+\.\d tokens/s; "
        r"queue: \d+\.\d\d ms; request mine",
        record.getMessage(),
    )
    assert (record.fields["prompt_tokens"], record.fields["tokens"]) == (answer.json()["tokens_evaluated"], 5)


@pytest.mark.inventory("C-023")
async def test_no_perf_turns_the_line_off(serve: Serve, lines: Lines) -> None:
    async with serve(perf=False) as client:
        assert (await client.post("/completion", json=BODY)).status_code == 200
    assert not lines()


def test_speeds_leave_out_the_first_token(lines: Lines) -> None:
    log_speed(
        Finish(
            "limit",
            n_prompt=30,
            n_cached=10,
            n_predicted=11,
            timings=Timings(prompt_n=20, prompt_ms=50.0, predicted_n=11, predicted_ms=100.0, queue_ms=1.5),
        )
    )
    log_speed(Finish("none"))
    assert [record.fields for record in lines()] == [
        {
            "prompt_tokens": 30,
            "cached_tokens": 10,
            "prompt_tokens_per_second": 400.0,
            "tokens": 11,
            "tokens_per_second": 100.0,
            "queue_ms": 1.5,
        },  # 10 tokens in 0.1 s: evaluating the prompt yields the first one
        {
            "prompt_tokens": 0,
            "cached_tokens": 0,
            "prompt_tokens_per_second": 0.0,
            "tokens": 0,
            "tokens_per_second": 0.0,
            "queue_ms": 0.0,
        },
    ]


@pytest.mark.inventory("C-064")
async def test_logdir_has_one_file_per_generation(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    async with serve(logdir=str(folder)) as client:
        body = {**BODY, "stop": ["é\n"], "seed": 7, "grammar": 'root ::= "é\\n"+', "logit_bias": [[3, False]]}
        first = (await client.post("/completion", json=body, headers={"x-request-id": "../../x"})).json()
        tokens = (await client.post("/tokenize", json={"content": "abc", "add_special": True})).json()["tokens"]
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "n": 2}
        assert (await client.post("/v1/chat/completions", json=chat)).status_code == 200
        async with client.stream("POST", "/completion", json={**BODY, "stream": True}) as response:
            events = [json.loads(line[6:]) async for line in response.aiter_lines() if line.startswith("data: ")]

    entries = read_files(folder)
    assert len(entries) == 4  # the chat with n = 2 has two
    entry = entries[0]
    assert entry["request_id"] == "../../x"
    assert (entry["prompt_tokens"], entry["finish"]["n_prompt"]) == (tokens, len(tokens))
    assert entry["prompt"].endswith("abc")
    assert len(entry["output_tokens"]) == first["tokens_predicted"]
    assert entry["settings"]["seed"] == entry["finish"]["seed"] == 7
    assert entry["settings"]["stop"] == ["é\n"]
    assert entry["settings"]["logit_bias"] == {3: float("-inf")}
    assert entry["settings"]["grammar"]["kind"] == "gbnf"
    assert entry["settings"]["options"]["temperature"] == 0
    assert entry["timings"]["predicted_n"] == first["timings"]["predicted_n"]
    assert entries[1]["request_id"] == entries[2]["request_id"] != entries[3]["request_id"]
    assert entries[3]["output"] == "".join(event["content"] for event in events)
    n_tokens = [len(entry["output_tokens"]) for entry in entries]
    assert n_tokens == [entry["finish"]["n_predicted"] for entry in entries]

    paths = list(folder.iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}, "other users can read the prompts"
    assert [path.name for path in paths if not re.fullmatch(r"[0-9T.-]+\.yaml", path.name)] == []


@pytest.mark.inventory("C-064")
async def test_a_failed_generation_has_a_file_too(serve: Serve, tmp_path: Path) -> None:
    async with serve(logdir=str(tmp_path)) as client:
        body = {**BODY, "deadline_ms": 1e-3}
        assert (await client.post("/completion", json=body)).status_code == 504
    (entry,) = read_files(tmp_path)
    assert entry["finish"] is entry["output_tokens"] is None
    assert entry["settings"]["deadline_ms"] == 1e-3


@pytest.mark.inventory("C-064")
async def test_a_removed_logdir_is_created_again(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    async with serve(logdir=str(folder)) as client:
        shutil.rmtree(tmp_path / "new")
        assert (await client.post("/completion", json=BODY)).status_code == 200
    assert len(read_files(folder)) == 1
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.inventory("C-064")
async def test_files_that_cannot_be_written_fail_no_request_and_are_logged_once(
    serve: Serve, tmp_path: Path, lines: Lines
) -> None:
    folder = tmp_path / "folder"
    async with serve(logdir=str(folder)) as client:
        folder.rmdir()
        folder.touch()
        for _ in range(3):
            assert (await client.post("/completion", json=BODY)).status_code == 200
    (line,) = [record for record in lines() if record.levelno >= logging.WARNING]
    assert re.fullmatch("--logdir: .*[.]yaml cannot be written: File exists", line.getMessage())
    assert line.exc_info is None


@pytest.mark.inventory("C-064")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that behaves like one on a full disk")
def test_nothing_is_left_of_a_file_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    real_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args, **more: real_open(Path("/dev/full"), *args, **more))
    with pytest.raises(OSError, match="No space left on device"):
        write_file(path, partial(dict, prompt="x" * 100_000))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.inventory("C-064")
def test_startup_fails_if_logdir_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    class FakeApp:
        settings = Settings(logdir=str(tmp_path / "file"))

    with pytest.raises(SettingsError, match="^--logdir: .*file cannot be written to: File exists"):
        RequestLog().register_endpoints(None, FakeApp())  # type: ignore[arg-type]  # it uses only the settings


def test_without_a_server_nothing_is_logged(lines: Lines) -> None:
    RequestLog().request_finished(GenerateRequest((1,)), Finish("limit"))
    assert not lines()
