"""The plugin `request_log`: a line per answer, and a YAML file, as a server in this process writes them."""

from __future__ import annotations

import json
import logging
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamafw import Finish, GenerateRequest, Settings, SettingsError, Timings
from llamafw_plugins.request_log import RequestLog, log_speed

BODY = {"prompt": "abc", "n_predict": 5, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, logger="llamafw.requests")
    return lambda: [record for record in caplog.records if record.name == "llamafw.requests"]


def files(folder: Path) -> list[Any]:
    """What the files of a folder say, oldest first."""
    return [yaml.safe_load(path.read_text("utf-8")) for path in sorted(folder.iterdir())]


@pytest.mark.inventory("C-023")
async def test_a_line_says_how_fast_an_answer_was_made(serve: Any, lines: Any) -> None:
    async with serve() as client:
        answer = await client.post("/completion", json=BODY, headers={"x-request-id": "mine"})
        await client.post("/tokenize", json={"content": "a"})
    (record,) = lines()
    assert re.fullmatch(
        r"prompt \d+ tokens, 0 cached, \d+\.\d tokens/s; answer 5 tokens, \d+\.\d tokens/s; "
        r"waited \d+\.\d\d ms, request mine",
        record.getMessage(),
    )
    assert (record.fields["prompt_tokens"], record.fields["tokens"]) == (answer.json()["tokens_evaluated"], 5)


@pytest.mark.inventory("C-023")
async def test_no_perf_no_line(serve: Any, lines: Any) -> None:
    async with serve(perf=False) as client:
        assert (await client.post("/completion", json=BODY)).status_code == 200
    assert not lines()


def test_speeds(lines: Any) -> None:
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
        },  # ten tokens after the first, which is the prompt's
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
async def test_a_file_per_answer(serve: Any, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    async with serve(logdir=str(folder)) as client:
        more = {**BODY, "stop": ["é\n"], "seed": 7, "grammar": 'root ::= "é\\n"+', "logit_bias": [[3, False]]}
        first = (await client.post("/completion", json=more, headers={"x-request-id": "../../x"})).json()
        tokens = (await client.post("/tokenize", json={"content": "abc", "add_special": True})).json()["tokens"]
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "n": 2}
        assert (await client.post("/v1/chat/completions", json=chat)).status_code == 200
        async with client.stream("POST", "/completion", json={**BODY, "stream": True}) as response:
            events = [json.loads(line[6:]) async for line in response.aiter_lines() if line]
    found = files(folder)
    assert len(found) == 4  # a chat with two answers has two
    one = found[0]
    assert one["request_id"] == "../../x"
    assert (one["prompt_tokens"], one["finish"]["n_prompt"]) == (tokens, len(tokens))
    assert one["prompt"].endswith("abc")
    assert len(one["output_tokens"]) == first["tokens_predicted"]
    assert one["settings"]["seed"] == one["finish"]["seed"] == 7
    assert one["settings"]["stop"] == ["é\n"]
    assert one["settings"]["logit_bias"] == {3: float("-inf")}
    assert one["settings"]["grammar"]["kind"] == "gbnf"
    assert one["settings"]["options"]["temperature"] == 0
    assert one["timings"]["predicted_n"] == first["timings"]["predicted_n"]
    assert found[1]["request_id"] == found[2]["request_id"] != found[3]["request_id"]
    assert found[3]["output"] == "".join(event["content"] for event in events)
    assert all(len(entry["output_tokens"]) == entry["finish"]["n_predicted"] for entry in found)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {0o600}, "prompts are nobody else's business"
    assert all(re.fullmatch(r"[0-9T.-]+\.yaml", path.name) for path in folder.iterdir())


@pytest.mark.inventory("C-064")
async def test_a_generation_that_fails_has_a_file_too(serve: Any, tmp_path: Path) -> None:
    async with serve(logdir=str(tmp_path)) as client:
        body = {**BODY, "deadline_ms": 1e-3}
        assert (await client.post("/completion", json=body)).status_code == 504
    (entry,) = files(tmp_path)
    assert entry["finish"] is entry["output_tokens"] is None
    assert entry["settings"]["deadline_ms"] == 1e-3


@pytest.mark.inventory("C-064")
async def test_a_full_disk_fails_no_request(serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"
    async with serve(logdir=str(folder)) as client:
        folder.rmdir()
        assert (await client.post("/completion", json=BODY)).status_code == 200
    assert "cannot be written" in caplog.text


@pytest.mark.inventory("C-064")
def test_a_folder_that_cannot_be_is_found_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    class App:
        settings = Settings(logdir=str(tmp_path / "file"))

    with pytest.raises(SettingsError, match="^--logdir: .*file cannot be written to: File exists"):
        RequestLog().register_endpoints(None, App())  # type: ignore[arg-type]  # all that it looks at


def test_without_a_server_nothing_is_written(lines: Any) -> None:
    RequestLog().request_finished(GenerateRequest((1,)), Finish("limit"))
    assert not lines()
