"""``--model-url``: files are downloaded once, resumed, verified, and updated if they have changed."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import signal
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from llamafw import DownloadError, SettingsError
from llamafw.models.fetch import Source
from llamafw.models.folders import downloads_dir
from llamafw.models.url import pull_url
from support.model_hub import ModelHub, Repository, running_hub

MODEL = b"GGUF" + np.random.default_rng(1).bytes(1_500_000)
SHA256 = hashlib.sha256(MODEL).hexdigest()

pytestmark = [pytest.mark.slow, pytest.mark.inventory("C-060")]


@pytest.fixture
def url(model_hub: ModelHub) -> str:
    """Return the URL of a model on a local server."""
    model_hub.files["tiny.gguf"] = MODEL
    return model_hub.file_url("tiny.gguf")


def pull(url: str, **options: Any) -> Path:
    return pull_url(url, **{"progress": False, **options})


def pull_error(url: str, error: type[Exception] = DownloadError, **options: Any) -> str:
    """Pull and return the error message, which must be one line."""
    with pytest.raises(error) as caught:
        pull(url, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files_in(folder: Path) -> list[str]:
    """Return the names of all files except locks."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def test_the_file_is_stored_in_the_cache(url: str, models_cache: Path) -> None:
    path = pull(url)
    assert path.read_bytes() == MODEL
    assert path.name == "tiny.gguf"
    assert path.parent.parent == models_cache == downloads_dir()
    assert files_in(models_cache) == ["tiny.gguf", "tiny.gguf.json"]


def test_the_default_folder_is_that_of_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CACHE", raising=False)
    monkeypatch.setenv("LLAMAFW_CACHE", str(tmp_path))
    assert downloads_dir() == tmp_path / "models"


def test_only_a_changed_file_is_downloaded_again(url: str, model_hub: ModelHub) -> None:
    first = pull(url)
    assert pull(url) == first
    assert [request.headers.get("If-None-Match") is None for request in model_hub.requests] == [True, False]
    model_hub.files["tiny.gguf"] = MODEL[::-1]
    assert pull(url).read_bytes() == MODEL[::-1]
    model_hub.faults.no_etag = True
    assert pull(url).read_bytes() == MODEL[::-1]


def test_an_unchanged_file_is_recognised_by_its_headers(url: str, model_hub: ModelHub) -> None:
    path = pull(url)
    model_hub.faults.ignore_if_none_match = True
    model_hub.faults.cut_after = [0]  # reading the content would fail
    inode = path.stat().st_ino
    assert pull(url) == path
    assert path.stat().st_ino == inode
    assert len(model_hub.downloads()) == 2


def test_a_file_without_etag_and_date_is_downloaded_once(url: str, model_hub: ModelHub) -> None:
    model_hub.faults.no_etag = True
    pull(url)
    pull(url)
    assert len(model_hub.requests) == 1


def test_a_file_with_a_checksum_is_requested_once(url: str, model_hub: ModelHub) -> None:
    first = pull(f"{url}#sha256={SHA256.upper()}")
    assert pull(f"{url}#sha256={SHA256}") == first
    assert len(model_hub.requests) == 1
    assert json.loads((first.parent / "tiny.gguf.json").read_text())["version"]["sha256"] == SHA256


def test_a_file_with_a_wrong_checksum_is_removed(url: str, models_cache: Path) -> None:
    message = pull_error(f"{url}#sha256={'0' * 64}")
    assert f"its SHA-256 is {SHA256}, not {'0' * 64}; the download was removed" in message
    assert files_in(models_cache) == []


def test_a_new_checksum_starts_a_new_download(url: str, model_hub: ModelHub) -> None:
    pull(f"{url}#sha256={SHA256}")
    model_hub.files["tiny.gguf"] = MODEL[::-1]
    assert pull(f"{url}#sha256={hashlib.sha256(MODEL[::-1]).hexdigest()}").read_bytes() == MODEL[::-1]


def test_a_broken_connection_is_resumed_at_once(url: str, model_hub: ModelHub) -> None:
    model_hub.faults.cut_after = [700_000, 300_000]
    assert pull(url).read_bytes() == MODEL
    ranges = [request.headers.get("Range") for request in model_hub.downloads()]
    assert ranges[0] is None
    assert ranges[1:] == ["bytes=700000-", "bytes=1000000-"]
    assert model_hub.downloads()[1].headers["If-Range"].startswith('"')


def test_an_incomplete_download_is_resumed_by_the_next_start(url: str, model_hub: ModelHub, models_cache: Path) -> None:
    model_hub.faults.cut_after = [700_000, 0]
    message = pull_error(url)
    assert "the connection broke" in message
    assert "the next start resumes the download" in message
    assert files_in(models_cache) == ["tiny.gguf.part", "tiny.gguf.part.json"]
    assert pull(url).read_bytes() == MODEL
    assert model_hub.downloads()[-1].headers["Range"] == "bytes=700000-"
    assert files_in(models_cache) == ["tiny.gguf", "tiny.gguf.json"]


def test_a_download_of_another_version_is_not_resumed(url: str, model_hub: ModelHub) -> None:
    model_hub.faults.cut_after = [700_000, 0]
    pull_error(url)
    model_hub.files["tiny.gguf"] = MODEL[::-1]
    assert pull(url).read_bytes() == MODEL[::-1]


@pytest.mark.parametrize("checksum", ["", f"#sha256={SHA256}"])
def test_the_download_restarts_if_the_server_cannot_resume(url: str, model_hub: ModelHub, checksum: str) -> None:
    model_hub.faults.ignore_ranges = True
    model_hub.faults.cut_after = [700_000]
    assert pull(url + checksum).read_bytes() == MODEL
    assert len(model_hub.downloads()) == 2


def test_resuming_needs_an_etag_a_date_or_a_checksum(url: str, model_hub: ModelHub) -> None:
    model_hub.faults.no_etag = True
    model_hub.faults.cut_after = [700_000]
    pull(f"{url}#sha256={SHA256}")
    assert model_hub.downloads()[-1].headers["Range"] == "bytes=700000-"

    shutil.rmtree(downloads_dir())
    model_hub.faults.cut_after = [700_000]
    assert pull(url).read_bytes() == MODEL
    assert "Range" not in model_hub.downloads()[-1].headers

    shutil.rmtree(downloads_dir())
    model_hub.faults.cut_after = [700_000, 700_000]
    assert "the connection broke" in pull_error(url)


def test_a_complete_partial_file_is_used(url: str, model_hub: ModelHub, models_cache: Path) -> None:
    path = pull(url)
    record = json.loads((path.parent / "tiny.gguf.json").read_text())
    path.rename(path.with_name("tiny.gguf.part"))  # as if the process had ended before renaming it
    path.with_name("tiny.gguf.part.json").write_text(json.dumps(record["version"]))
    assert pull(url).read_bytes() == MODEL
    assert files_in(models_cache) == ["tiny.gguf", "tiny.gguf.json"]
    assert model_hub.downloads()[-1].headers["Range"] == f"bytes={len(MODEL)}-"


def test_damage_during_the_download_is_noticed(url: str, model_hub: ModelHub, models_cache: Path) -> None:
    model_hub.faults.corrupt = True
    assert "is not the expected file: its SHA-256 is " in pull_error(f"{url}#sha256={SHA256}")
    assert files_in(models_cache) == []


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "the server answered 404 Not Found"),
        (403, "403 Forbidden"),
        (503, "503 Service Unavailable; try again later"),
    ],
)
def test_http_errors_are_reported_without_secrets(url: str, model_hub: ModelHub, status: int, message: str) -> None:
    model_hub.faults.status = status
    assert message in pull_error(url.replace("http://", "http://user:secret@") + "?key=secret")
    assert "secret" not in pull_error(url.replace("http://", "http://user:secret@") + "?key=secret")


def test_a_web_page_is_refused(url: str, model_hub: ModelHub) -> None:
    model_hub.faults.content_type = "text/html; charset=utf-8"
    assert "is a web page, not a model" in pull_error(url)


def test_the_earlier_download_is_used_if_the_server_fails(
    url: str, model_hub: ModelHub, caplog: pytest.LogCaptureFixture
) -> None:
    path = pull(url)
    model_hub.faults.status = 500
    with caplog.at_level(logging.WARNING):
        assert pull(url) == path
    assert "500 Internal Server Error; try again later; the earlier download is used" in caplog.text


@pytest.mark.usefixtures("models_cache")
def test_an_unreachable_server_is_reported() -> None:
    with running_hub() as gone:
        url = gone.file_url("x.gguf")
    message = pull_error(url)
    assert "the server cannot be reached" in message
    assert "check the network and the proxy (HTTPS_PROXY), or start with -m FILE" in message


def test_a_server_that_does_not_answer_is_reported(
    url: str, model_hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamafw.models.fetch.READ_TIMEOUT", 0.2)
    model_hub.faults.never_answer = True
    assert "the server did not answer in time" in pull_error(url)


def test_certificates_are_verified(models_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with running_hub(context) as hub:
        hub.files["tiny.gguf"] = MODEL
        message = pull_error(hub.file_url("tiny.gguf"))
        assert "the server cannot be reached ([SSL: CERTIFICATE_VERIFY_FAILED]" in message
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert pull(hub.file_url("tiny.gguf")).read_bytes() == MODEL
        assert files_in(models_cache) == ["tiny.gguf", "tiny.gguf.json"]


def test_offline_uses_the_cache_only(url: str, model_hub: ModelHub) -> None:
    assert "is not in the cache" in (message := pull_error(url, offline=True))
    assert "--offline is set" in message
    path = pull(url)
    n = len(model_hub.requests)
    assert pull(url, offline=True) == path
    assert len(model_hub.requests) == n


@pytest.mark.inventory("C-059")
def test_the_file_can_be_stored_elsewhere(url: str, tmp_path: Path, model_hub: ModelHub) -> None:
    path = tmp_path / "here" / "own.gguf"
    assert pull(url, path=path) == path
    assert path.read_bytes() == MODEL
    model_hub.files["tiny.gguf"] = MODEL[::-1]
    assert pull(url, path=path).read_bytes() == MODEL[::-1]


@pytest.mark.inventory("C-059")
def test_a_file_of_the_user_is_never_overwritten(url: str, tmp_path: Path, model_hub: ModelHub) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(b"mine")
    assert pull(url, path=path).read_bytes() == b"mine"
    assert "already exists and is another file" in pull_error(f"{url}#sha256={SHA256}", path=path)
    assert path.read_bytes() == b"mine"
    assert model_hub.requests == []


def test_a_full_disk_is_noticed_before_the_download(
    url: str, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100_000}))
    message = pull_error(url)
    assert str(models_cache) in message
    assert "has 0.1 MB free, but 1.5 MB are needed" in message


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_disk_that_fills_up_is_reported(url: str, models_cache: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); "
        f"from llamafw.cli import main; raise SystemExit(main(['pull', '--quiet', {url!r}]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"llamafw: tiny.gguf cannot be stored in {models_cache}")
    assert "File too large" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(models_cache.rglob("tiny.gguf"))
    assert pull(url).read_bytes() == MODEL


def test_an_impossible_cache_folder_is_reported(url: str, models_cache: Path) -> None:
    models_cache.write_text("")
    assert f"tiny.gguf cannot be stored in {models_cache}" in pull_error(url)


def test_simultaneous_pulls_download_once(url: str, model_hub: ModelHub) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(lambda _: pull(url), range(3)))) == 1
    assert sum("If-None-Match" not in request.headers for request in model_hub.downloads()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_an_interrupted_pull_is_resumed(url: str, model_hub: ModelHub, models_cache: Path, signal_name: str) -> None:
    model_hub.faults.stall = True
    command = [sys.executable, "-m", "llamafw", "pull", url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert model_hub.stalled.wait(60)
        while not any(path.stat().st_size for path in models_cache.rglob("*.part")):
            assert process.poll() is None
        process.send_signal(signal.Signals[signal_name])
        assert "Traceback" not in process.communicate(timeout=60)[1]
    model_hub.faults.stall = False
    assert pull(url).read_bytes() == MODEL
    assert "Range" in model_hub.downloads()[-1].headers


def test_progress_is_shown_on_stderr(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    pull(f"{url}#sha256={SHA256}", progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == ["tiny.gguf: downloading 2 MB", "tiny.gguf: verifying 2 MB"]


@pytest.mark.inventory("C-063")
def test_the_token_is_sent_to_the_hub_only(url: str, model_hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    pull(url, token="hf_other")
    assert model_hub.requests[0].headers["Authorization"] == "Bearer hf_other"
    model_hub.repositories["u/r"] = Repository({"tiny.gguf": MODEL})
    assert pull(f"{model_hub.url}/u/r/resolve/main/tiny.gguf", token="hf_other").read_bytes() == MODEL
    *_, first, redirected = model_hub.requests
    assert first.headers["Authorization"] == "Bearer hf_other"
    assert redirected.host.startswith("localhost:")
    assert "Authorization" not in redirected.headers

    monkeypatch.delenv("HF_ENDPOINT")
    pull(f"{url}?another", token="hf_other")
    assert "Authorization" not in model_hub.requests[-1].headers


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/x.gguf", "is not a valid URL; it must start with https:// or http://"),
        ("model.gguf", "is not a valid URL"),
        ("https://", "is not a valid URL"),
        ("http://host:99999/x", "is not a valid URL"),
        ("https://host/x.gguf#sha256=12", "#sha256=12 is not #sha256= followed by 64 hexadecimal digits"),
        ("https://host/x.gguf#md5=12", "is not #sha256="),
    ],
)
def test_invalid_urls_are_refused(url: str, message: str) -> None:
    assert message in pull_error(url, SettingsError)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/m.gguf", "m.gguf"), ("/", "model.gguf"), ("/a/..%2F..%2Fx", "_.._x"), ("/%2e%2e", "model.gguf")],
)
def test_file_names_in_the_cache_are_safe(models_cache: Path, path: str, name: str) -> None:
    message = pull_error(f"http://host{path}", offline=True)
    assert f"/{name})" in message.replace("\\", "/")
    assert str(models_cache) in message


def test_all_parts_of_a_model_are_downloaded(model_hub: ModelHub, tmp_path: Path) -> None:
    names = [f"big-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    model_hub.files |= {name: name.encode() for name in names}
    first = model_hub.file_url(names[0])
    path = pull(f"{first}?key=secret")
    assert path.name == names[0]
    assert [path.with_name(name).read_text() for name in names] == names

    assert pull(f"{first}?key=secret", offline=True) == path
    path.with_name(names[2]).unlink()
    assert f"{names[2]} is not in the cache" in pull_error(f"{first}?key=secret", offline=True)
    assert f"use the first one, {names[0]}" in pull_error(model_hub.file_url(names[1]), SettingsError)
    assert "#sha256= describes one file" in pull_error(f"{first}#sha256={SHA256}", SettingsError)
    assert "--model names one file" in pull_error(first, SettingsError, path=tmp_path / "m.gguf")
    del model_hub.files[names[2]]
    assert f"{names[2]} cannot be downloaded: the server answered 404" in pull_error(first)


def test_public_urls_have_no_secrets() -> None:
    assert Source(url="https://me:pass@host:1/a/b.gguf?signature=x").public_url == "https://host:1/a/b.gguf"
