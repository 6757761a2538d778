"""Servers that download their model from Hugging Face or from a URL."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from checkpoints import all_checkpoints
from checkpoints.folders import write_folder
from llamafw.testing.process import running_server
from llamafw.testing.tiny import write_tiny_gguf
from support.model_hub import ModelHub, Repository, running_hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    content = write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()
    with running_hub() as hub:
        hub.files["tiny.gguf"] = content
        hub.repositories["test/tiny"] = Repository({"tiny-f32.gguf": content}, token="hf_good")
        yield hub


def complete(url: str) -> str:
    body = {"prompt": "abc", "n_predict": 4, "seed": 1, "ignore_eos": True}
    text: str = httpx.post(f"{url}/completion", json=body, timeout=60).json()["content"]
    return text


@pytest.mark.inventory("C-061", "C-063", "O-10")
def test_model_is_downloaded_from_a_repository(hub: ModelHub, tmp_path: Path) -> None:
    environ = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    with running_server(None, "-hf", "test/tiny", ready=True, HF_TOKEN="hf_good", **environ) as server:
        assert httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"][0]["id"] == "tiny-f32"
        text = complete(server.url)
    assert (tmp_path / "hf" / "hub" / "models--test--tiny" / "refs" / "main").is_file()
    n = len(hub.requests)
    with running_server(None, "-hf", "test/tiny", "--offline", ready=True, **environ) as server:
        assert complete(server.url) == text
    assert len(hub.requests) == n


def test_model_in_several_files_is_downloaded(hub: ModelHub, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write_tiny_gguf(tmp_path / "parts" / "m.gguf", part_tensors=8)
    parts = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    hub.repositories["test/parts"] = Repository(parts)
    assert len(parts) == 3
    with running_server(None, "-hf", "test/parts", HF_ENDPOINT=hub.url, LLAMA_CACHE=str(tmp_path / "cache")) as server:
        assert httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"][0]["id"] == "m"
        text = complete(server.url)
    with running_server(tmp_path / "tiny.gguf") as server:
        assert complete(server.url) == text


def test_checkpoint_is_downloaded_from_a_repository(hub: ModelHub, tmp_path: Path) -> None:
    folder = write_folder(next(one for one in all_checkpoints() if one.name == "llama"), tmp_path / "tiny-1.5")
    hub.repositories["test/Tiny-1.5"] = Repository({path.name: path.read_bytes() for path in folder.iterdir()})
    cache = str(tmp_path / "cache")
    with running_server(None, "-hf", "test/Tiny-1.5", HF_ENDPOINT=hub.url, LLAMA_CACHE=cache) as server:
        assert httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"][0]["id"] == "Tiny-1.5"
        text = complete(server.url)
    with running_server(folder) as server:
        assert httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"][0]["id"] == "tiny-1.5"
        assert complete(server.url) == text


@pytest.mark.inventory("C-060")
def test_model_is_downloaded_from_a_url(hub: ModelHub, tmp_path: Path) -> None:
    environ = {"LLAMA_CACHE": str(tmp_path / "cache"), "LLAMA_ARG_MODEL_URL": hub.file_url("tiny.gguf")}
    with running_server(None, ready=True, **environ) as server:
        assert httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"][0]["id"] == "tiny"
        complete(server.url)
    assert len(list((tmp_path / "cache").rglob("tiny.gguf"))) == 1


def command(hub: ModelHub, home: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``llamafw`` as a user with the home folder ``home`` and only the variables in ``environ``."""
    kept = {name: value for name, value in os.environ.items() if not re.match("HF_|LLAMA|XDG_|HOME$", name)}
    ours = {"HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-m", "llamafw", *words],
        env=kept | ours | environ,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.inventory("C-060", "C-061", "C-062", "C-063", "P-03")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-hf", "test/tiny"), "test/tiny .*(token|private)"),  # 401
        (("-hf", "test/tiny", "-hft", "hf_wrong"), "token"),  # 401 for another reason
        (("-hf", "test/none", "-hft", "hf_other"), "test/none"),  # 404
        (("-hf", "test/tiny", "-hft", "hf_good", "-hff", "other.gguf"), "other.gguf.*tiny-f32.gguf"),  # 404 for a file
        (("-mu", "URL/none.gguf"), "404"),
        (("-mu", "URL/tiny.gguf#sha256=" + "0" * 64), "0{64}"),
    ],
)
def test_failed_download_exits_with_1(hub: ModelHub, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    words = [word.replace("URL", f"{hub.url}/files") for word in flags]
    done = command(hub, tmp_path / "home", "serve", "--port", "0", *words)
    *shown, last = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(message, last), done.stderr
    assert [line for line in shown if not re.search("(downloading|verifying) [0-9]+ MB$", line)] == []
    assert not list((tmp_path / "home").rglob("*.gguf"))


@pytest.mark.inventory("C-061")
def test_interrupted_download_is_resumed(hub: ModelHub, tmp_path: Path) -> None:
    hub.faults.cut_after = [100_000, 0]
    flags, environ = ("-hf", "test/tiny", "-hft", "hf_good"), {"LLAMA_CACHE": str(tmp_path / "cache")}
    first = command(hub, tmp_path, "serve", "--port", "0", *flags, **environ)
    assert first.returncode == 1
    assert "the next start resumes the download" in first.stderr
    with running_server(None, *flags, ready=True, HF_ENDPOINT=hub.url, **environ) as server:
        complete(server.url)
    assert hub.downloads()[-1].headers["Range"] == "bytes=100000-"


@pytest.mark.inventory("C-061", "C-062")
@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("LLAMA_CACHE", "given"),
        ("HF_HUB_CACHE", "given"),
        ("HF_HOME", "given/hub"),
        ("XDG_CACHE_HOME", "given/huggingface/hub"),
        (None, "home/.cache/huggingface/hub"),
    ],
)
def test_hub_cache_folder_follows_the_variables(
    hub: ModelHub, tmp_path: Path, variable: str | None, folder: str
) -> None:
    environ = {variable: str(tmp_path / "given")} if variable else {}
    done = command(hub, tmp_path / "home", "pull", "test/tiny", HF_TOKEN="hf_good", **environ)
    assert done.returncode == 0, done.stderr
    (found,) = (tmp_path / folder).glob("models--test--tiny/snapshots/*/tiny-f32.gguf")
    assert found.read_bytes() == hub.files["tiny.gguf"]
    assert str(found) in done.stdout


@pytest.mark.inventory("C-061")
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_progress_is_a_bar_on_terminals_and_lines_elsewhere(hub: ModelHub, tmp_path: Path) -> None:
    import pty

    environ = {"HF_TOKEN": "hf_good", "HF_ENDPOINT": hub.url, "TERM": "xterm", "COLUMNS": "100"}
    words = [sys.executable, "-m", "llamafw", "pull", "test/tiny"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, **environ, "LLAMA_CACHE": str(tmp_path / "a")}
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux reports the end of the terminal like this
        pass
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    size = len(hub.files["tiny.gguf"])
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert process.returncode == 0
    assert "tiny-f32.gguf: downloading" in text
    assert re.search(rf"\u2501+ +{size / 1e3:.1f}/{size / 1e3:.1f} kB", text), text  # the full bar
    assert out.decode().strip().endswith("tiny-f32.gguf")  # nothing else
    lines = command(hub, tmp_path, "pull", "test/tiny", LLAMA_CACHE=str(tmp_path / "b"), HF_TOKEN="hf_good")
    assert lines.stderr.splitlines() == ["tiny-f32.gguf: downloading 0 MB", "tiny-f32.gguf: verifying 0 MB"]
