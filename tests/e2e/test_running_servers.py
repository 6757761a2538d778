"""`llamafw ps` and `llamafw stop`, with servers as processes."""

from __future__ import annotations

import json
import os
import platform
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from llamafw.cli.main import main
from llamafw.cli.stop import names_of
from llamafw.server.records import ServerRecord, records_folder, running_servers
from llamafw.testing.process import running_server


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder, also for the servers that a test starts."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def record_of(pid: int, started: float) -> ServerRecord:
    """Return a record of a process as if it were a server."""
    return ServerRecord(pid, started, platform.node(), ("http://127.0.0.1:8080",), 0.0, "tiny")


def test_servers_are_listed_and_stopped(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(tiny_model, "--alias", "one") as one, running_server(tiny_model, "--alias", "two") as two:
        assert main(["ps", "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)
        assert {(entry["model"], *entry["urls"]) for entry in listed} == {("one", one.url), ("two", two.url)}
        assert [entry["status"] for entry in listed] == ["ready", "ready"]

        assert main(["stop"]) == 2
        assert "2 servers are running; name one of them" in capsys.readouterr().err
        assert main(["stop", "three"]) == 1
        assert "no server is called three" in capsys.readouterr().err

        assert main(["stop", one.url.rpartition(":")[2]]) == 0
        assert "one" in capsys.readouterr().out
        assert one.process.wait(30) == 0
        assert main(["ps"]) == 0
        assert "two" in capsys.readouterr().out
        assert main(["stop", "--all"]) == 0
        assert two.process.wait(30) == 0
        capsys.readouterr()

    assert main(["ps"]) == 0
    assert "no server is running" in capsys.readouterr().out
    assert main(["stop"]) == 1
    assert not [*records_folder().iterdir()]


def test_a_server_is_named_by_its_model_and_its_addresses() -> None:
    urls = ("http://127.0.0.1:8080/llm", "https://[::1]:8443", "unix:/run/llm.sock")
    assert names_of(replace(record_of(1, 0.0), urls=urls, model="smollm2-135m")) == {
        *urls,
        *("http://127.0.0.1:8080", "127.0.0.1:8080", "8080"),
        *("[::1]:8443", "8443"),
        "smollm2-135m",
    }


def test_stop_lets_running_requests_finish(tiny_model: Path) -> None:
    with running_server(tiny_model) as server:
        body = {"prompt": "Hello", "n_predict": 64, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.url}/completion", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            stopping = threading.Thread(target=main, args=(["stop"],))
            stopping.start()
            events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        stopping.join()
        assert events[-1]["stop"]
        assert events[-1]["tokens_predicted"] == 64
        assert server.process.wait(30) == 0


def test_a_killed_server_is_not_listed(tiny_model: Path) -> None:
    with running_server(tiny_model, ready=False) as server:
        (record,) = running_servers()
        assert record.pid == server.process.pid
        server.process.kill()
        server.process.wait()
        assert record.path.exists()
        assert running_servers() == []
        assert not record.path.exists()


def test_another_process_with_the_number_of_a_server_is_not_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    this = psutil.Process()
    record_of(os.getpid(), this.create_time() - 100).write()
    assert running_servers() == []
    assert main(["stop", "--all"]) == 0
    assert "no server is running" in capsys.readouterr().out


def test_records_of_other_machines_and_broken_files_are_left_alone() -> None:
    mine = record_of(os.getpid(), psutil.Process().create_time())
    mine.write()
    other = replace(mine, host="elsewhere")
    other.write()
    broken = records_folder() / f"{platform.node()}-1.json"
    broken.write_text("{")
    assert running_servers() == [mine]
    assert other.path.exists()
    assert broken.exists()


def test_a_state_folder_that_cannot_be_written_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    record_of(os.getpid(), 0.0).write()
    assert running_servers() == []
