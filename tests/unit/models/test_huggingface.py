"""``--hf-repo``: the hub's real client with a local imitation of Hugging Face."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import scan_cache_dir, try_to_load_from_cache

from llamafw import DownloadError, SettingsError
from llamafw.models.huggingface import Repo, pull_repo
from support.model_hub import COMMIT, ModelHub, Repository, running_hub

RANDOM = np.random.default_rng(2)
FILES = {
    "README.md": b"# tiny",
    "tiny-q4_k_m.gguf": b"GGUF" + RANDOM.bytes(800_000),
    "tiny-q8_0.gguf": b"GGUF" + RANDOM.bytes(900_000),
    "more/other.gguf": b"GGUF" + RANDOM.bytes(1000),
}
DEFAULT = FILES["tiny-q4_k_m.gguf"]

pytestmark = [pytest.mark.slow, pytest.mark.inventory("C-061")]


@pytest.fixture
def repository(model_hub: ModelHub) -> Repository:
    model_hub.repositories["test/tiny"] = Repository(dict(FILES))
    model_hub.repositories["test/other"] = Repository({})
    return model_hub.repositories["test/tiny"]


def pull(repo: str = "test/tiny", file: str | None = None, **options: Any) -> Path:
    return pull_repo(repo, file, **{"progress": False, **options})


def pull_error(
    repo: str = "test/tiny", file: str | None = None, error: type[Exception] = DownloadError, **options: Any
) -> str:
    """Pull and return the error message, which must be one line."""
    with pytest.raises(error) as caught:
        pull(repo, file, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("repository")
@pytest.mark.inventory("O-10")
def test_the_default_quantization_is_stored_in_the_cache_of_the_hub(models_cache: Path) -> None:
    path = pull()
    assert path.read_bytes() == DEFAULT
    assert path.name == "tiny-q4_k_m.gguf"

    # The hub's own tools find it there, and nothing unexpected.
    assert try_to_load_from_cache("test/tiny", "tiny-q4_k_m.gguf", cache_dir=models_cache) == str(path)
    scan = scan_cache_dir(models_cache)
    assert scan.warnings == []
    (repo,) = scan.repos
    assert (repo.repo_id, repo.nb_files, repo.size_on_disk) == ("test/tiny", 1, len(DEFAULT))
    assert sorted(repo.refs) == ["main"]


@pytest.mark.usefixtures("repository")
@pytest.mark.inventory("O-10")
def test_a_quantization_can_be_chosen() -> None:
    assert pull("test/tiny:Q8_0").read_bytes() == FILES["tiny-q8_0.gguf"]
    assert pull_error("test/tiny:Q2_K") == (
        "test/tiny has no model of quantization 'Q2_K'; "
        "its models are tiny-q4_k_m.gguf, tiny-q8_0.gguf, more/other.gguf"
    )


@pytest.mark.usefixtures("repository")
@pytest.mark.inventory("C-062")
def test_a_file_can_be_chosen() -> None:
    assert pull(file="more/other.gguf").read_bytes() == FILES["more/other.gguf"]
    assert "has no file 'more/othr.gguf'; did you mean more/other.gguf" in pull_error(file="more/othr.gguf")
    assert "both choose a file" in pull_error("test/tiny:Q8_0", "more/other.gguf", SettingsError)


@pytest.mark.usefixtures("repository")
def test_a_second_pull_makes_one_request(model_hub: ModelHub) -> None:
    first = pull()
    n = len(model_hub.requests)
    assert pull() == first
    assert [request.path for request in model_hub.requests[n:]] == ["/api/models/test/tiny/revision/main"]


def test_a_new_commit_downloads_changed_files_only(model_hub: ModelHub, repository: Repository) -> None:
    first = pull()
    repository.commit = "f" * 40
    assert pull() != first
    assert len(model_hub.downloads()) == 1
    repository.files["tiny-q4_k_m.gguf"] = DEFAULT[::-1]
    repository.commit = "e" * 40
    assert pull().read_bytes() == DEFAULT[::-1]


def test_a_revision_can_be_chosen(repository: Repository) -> None:
    repository.revisions = ("main", "refs/pr/1")
    assert pull("test/tiny@refs/pr/1:Q8_0").read_bytes() == FILES["tiny-q8_0.gguf"]
    assert pull(f"test/tiny@{COMMIT}").parent.name == COMMIT
    assert "test/tiny has no revision 'v2'" in pull_error("test/tiny@v2")


@pytest.mark.usefixtures("repository")
def test_the_token_goes_to_the_hub_alone(model_hub: ModelHub) -> None:
    pull(token="hf_other")
    for request in model_hub.requests:
        sent = "Bearer hf_other" if request.host.startswith("127.0.0.1") else None
        assert request.headers.get("Authorization", request.headers.get("authorization")) == sent, request
    assert {request.host.split(":")[0] for request in model_hub.requests} == {"127.0.0.1", "localhost"}


@pytest.mark.inventory("C-063")
def test_a_private_repository_needs_a_token(repository: Repository) -> None:
    repository.token = "hf_good"
    message = pull_error()
    assert "the repository test/tiny does not exist at http://127.0.0.1" in message
    assert "a private one needs a token (--hf-token, HF_TOKEN)" in message
    assert pull_error(token="hf_other") == message
    assert "rejects the token (from --hf-token, HF_TOKEN or `hf auth login`)" in pull_error(token="hf_wrong")
    assert pull(token="hf_good").read_bytes() == DEFAULT


@pytest.mark.inventory("C-063")
def test_a_gated_repository_needs_an_accepted_licence(model_hub: ModelHub, repository: Repository) -> None:
    repository.token, repository.gated = "hf_good", True
    message = pull_error()
    assert message == (
        f"access to test/tiny is denied: accept its licence at {model_hub.url}/test/tiny, and use a token of that "
        "account (--hf-token, HF_TOKEN)"
    )
    assert pull(token="hf_good").read_bytes() == DEFAULT


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("name", ["test/tny", "tset/tiny"])
def test_an_unknown_repository_gets_suggestions(name: str) -> None:
    message = pull_error(name)
    assert f"the repository {name} does not exist at " in message
    assert "(did you mean test/tiny" in message


@pytest.mark.usefixtures("repository")
def test_a_repository_without_models_is_refused() -> None:
    assert pull_error("test/other") == "test/other has no GGUF model"


@pytest.mark.usefixtures("repository")
def test_an_interrupted_download_is_resumed(model_hub: ModelHub, models_cache: Path) -> None:
    model_hub.faults.cut_after = [300_000, 0]
    assert "the next start resumes the download" in pull_error()
    assert not list(models_cache.rglob("*.gguf"))
    assert pull().read_bytes() == DEFAULT
    assert model_hub.downloads()[-1].headers["Range"] == "bytes=300000-"
    assert not list(models_cache.rglob("*.part*"))


@pytest.mark.usefixtures("repository")
def test_damage_during_the_download_is_noticed(model_hub: ModelHub, models_cache: Path) -> None:
    model_hub.faults.corrupt = True
    message = pull_error()
    assert f", not {hashlib.sha256(DEFAULT).hexdigest()}; the download was removed" in message
    assert not any(path.is_file() for path in models_cache.rglob("blobs/*"))


@pytest.mark.usefixtures("repository")
def test_the_cache_is_used_if_the_hub_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = pull()
    with running_hub() as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    with caplog.at_level(logging.WARNING):
        assert pull() == path
    assert "the server cannot be reached" in caplog.text
    assert "the file in the cache is used" in caplog.text
    message = pull_error("test/another")
    assert f"test/another cannot be downloaded from {gone.url}: the server cannot be reached (" in message
    assert "start with -m FILE" in message


@pytest.mark.usefixtures("repository")
def test_the_cache_is_used_if_the_hub_fails(
    model_hub: ModelHub, repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    path = pull()
    repository.commit, repository.files["tiny-q4_k_m.gguf"] = "f" * 40, DEFAULT[::-1]
    model_hub.faults.cut_after = [0]
    assert pull() == path
    assert "the connection broke" in caplog.text
    model_hub.faults.status = 503
    assert pull() == path
    assert "the server answered 503 Service Unavailable; try again later; the file in the cache is used" in caplog.text
    model_hub.faults.status = None
    assert pull().read_bytes() == DEFAULT[::-1]


@pytest.mark.usefixtures("repository")
def test_a_hub_that_does_not_answer_is_reported(model_hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamafw.models.huggingface.TIMEOUT", 0.2)
    model_hub.faults.never_answer = True
    assert "the server did not answer in time; check the network" in pull_error()


@pytest.mark.usefixtures("repository")
def test_offline_uses_the_cache_only(model_hub: ModelHub) -> None:
    assert "test/tiny is not in the cache" in pull_error(offline=True)
    path = pull("test/tiny:Q8_0")
    n = len(model_hub.requests)
    assert pull(offline=True) == path
    assert pull(file="tiny-q8_0.gguf", offline=True) == path
    assert "has no model of quantization 'Q4_0'; its models are tiny-q8_0.gguf" in pull_error(
        "test/tiny:Q4_0", offline=True
    )
    assert len(model_hub.requests) == n


@pytest.mark.usefixtures("repository")
def test_errors_of_the_hub_are_reported(model_hub: ModelHub) -> None:
    model_hub.faults.status = 503
    assert "the server answered 503 Service Unavailable; try again later" in pull_error()
    model_hub.faults.status = 200
    assert f"{model_hub.url} (HF_ENDPOINT) does not answer like Hugging Face" in pull_error()


@pytest.mark.usefixtures("repository")
@pytest.mark.inventory("C-059")
def test_a_chosen_file_can_be_stored_elsewhere(tmp_path: Path, model_hub: ModelHub) -> None:
    path = tmp_path / "own.gguf"
    assert pull(file="tiny-q8_0.gguf", path=path) == path
    assert path.read_bytes() == FILES["tiny-q8_0.gguf"]
    pull(file="tiny-q8_0.gguf", path=path)
    assert pull(file="tiny-q8_0.gguf", path=path, offline=True) == path
    assert len(model_hub.downloads()) == 1


@pytest.mark.usefixtures("repository")
@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_disk_that_fills_up_is_reported(models_cache: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); "
        "from llamafw.cli import main; raise SystemExit(main(['pull', '--quiet', 'test/tiny']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"cannot be stored in {models_cache}" in result.stderr
    assert "File too large; it needs 0.8 MB" in result.stderr
    assert result.stderr.count("\n") == 1
    assert pull().read_bytes() == DEFAULT


@pytest.mark.usefixtures("repository")
def test_simultaneous_pulls_download_once(model_hub: ModelHub) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(lambda _: pull(), range(3)))) == 1
    assert len(model_hub.downloads()) == 1


@pytest.mark.inventory("O-10")
def test_all_parts_of_a_model_are_downloaded(repository: Repository, tmp_path: Path) -> None:
    names = [f"Q8_0/big-Q8_0-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    repository.files = {name: name.encode() for name in names}
    path = pull("test/tiny:Q8_0")
    assert path.name == "big-Q8_0-00001-of-00003.gguf"
    assert sorted(file.read_bytes() for file in path.parent.iterdir()) == [name.encode() for name in names]
    assert pull("test/tiny:Q8_0", offline=True) == path
    path.with_name("big-Q8_0-00002-of-00003.gguf").unlink()
    assert f"the cache of test/tiny lacks {names[1]}" in pull_error("test/tiny:Q8_0", offline=True)
    assert f"name the first one, {names[0]}" in pull_error(file=names[2])
    assert "--model names one file" in pull_error(file=names[0], path=tmp_path / "m.gguf", error=SettingsError)
    del repository.files[names[1]]
    assert f"test/tiny lacks {names[1]}" in pull_error()


@pytest.mark.parametrize("text", ["tiny", "a/b/c", "a/b:", "a/b@", "https://host/a/b", "a/b:Q4 0"])
def test_malformed_repository_names_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is not a Hugging Face repository"):
        Repo.parse(text)


def test_repository_names_are_parsed() -> None:
    assert Repo.parse("a-b/c.d_e") == Repo("a-b/c.d_e", "main", None)
    assert Repo.parse("a/b@refs/pr/3:UD-Q4_K_XL") == Repo("a/b", "refs/pr/3", "UD-Q4_K_XL")
