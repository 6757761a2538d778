"""Downloaded models are listed and removed, whatever their source; other files in the caches are left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamafw import DownloadError, ModelError
from llamafw.cli.main import main
from llamafw.models.catalogue import CATALOGUE
from llamafw.models.downloads import find_downloads, list_downloads, remove
from llamafw.models.folders import models_dir
from llamafw.models.huggingface import pull_repo
from llamafw.models.url import pull_url
from llamafw.models.wheels import record_path
from support.model_hub import ModelHub, Repository

pytestmark = pytest.mark.slow

NAME, ENTRY = next(iter(CATALOGUE.items()))
REPO_FILES = {
    "README.md": b"# tiny",
    "tiny-q4_0.gguf": b"GGUF" + b"4" * 1000,
    "tiny-q8_0.gguf": b"GGUF" + b"8" * 2000,
    "big-00001-of-00002.gguf": b"GGUF" + b"1" * 3000,
    "big-00002-of-00002.gguf": b"GGUF" + b"2" * 3000,
}


@pytest.fixture(autouse=True)
def catalogue_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAFW_CACHE", str(tmp_path / "catalogue"))


@pytest.fixture
def pull(model_hub: ModelHub) -> Callable[..., Path]:
    """Download a file of the repository test/tiny."""
    model_hub.repositories["test/tiny"] = Repository(dict(REPO_FILES))
    return lambda file, repo="test/tiny": pull_repo(repo, file, progress=False)


@pytest.fixture
def pull_file(model_hub: ModelHub) -> Callable[..., Path]:
    """Download a file from a URL."""

    def pull(name: str, content: bytes = b"GGUF from a URL", query: str = "") -> Path:
        model_hub.files[name] = content
        return pull_url(model_hub.file_url(name) + query, progress=False)

    return pull


def pull_catalogue_model() -> Path:
    path = models_dir() / ENTRY.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF of the catalogue")
    record_path(path).write_text(f"{ENTRY.sha256}  {ENTRY.file}\n")
    return path


def files_in(*folders: Path) -> list[str]:
    """Return the names of all files, except for those that the hub's client leaves in its cache."""
    names = [path.name for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in names if name not in ("CACHEDIR.TAG", "main") and not name.endswith(".lock"))


@pytest.mark.usefixtures("models_cache")
def test_nothing_is_listed_before_the_first_download(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_downloads() == []
    assert main(["pull", "--list"]) == 0
    assert "no models have been downloaded" in capsys.readouterr().out


def test_downloads_are_listed_with_source_size_and_path(
    model_hub: ModelHub, pull: Callable[..., Path], pull_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [pull("tiny-q8_0.gguf"), pull_file("model.gguf"), pull_catalogue_model()]
    found = {download.name: download for download in list_downloads()}
    assert set(found) == {"test/tiny/tiny-q8_0.gguf", "model.gguf", NAME}
    assert [found[name].path for name in ("test/tiny/tiny-q8_0.gguf", "model.gguf", NAME)] == paths
    assert {download.source for download in found.values()} == {
        "Hugging Face",
        model_hub.file_url("model.gguf"),
        "catalogue",
    }
    assert found["test/tiny/tiny-q8_0.gguf"].size == 2004

    assert main(["pull", "--list"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NAME", "SIZE", "SOURCE", "PATH"]
    assert len(rows) == 3
    assert all(any(row.startswith(name) and row.endswith(str(found[name].path)) for row in rows) for name in found)


def test_passwords_and_queries_of_urls_are_not_listed(pull_file: Callable[..., Path]) -> None:
    pull_file("model.gguf", query="?token=secret")
    (download,) = list_downloads()
    assert download.source.endswith("/files/model.gguf")


def test_a_folder_of_the_catalogue_is_listed_and_removed() -> None:
    entry = CATALOGUE["minilm-l6-v2"]
    path = models_dir() / entry.file
    for file in entry.paths(path):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"12345")
    (download,) = find_downloads("minilm-l6-v2")
    assert (download.path, download.size) == (path, 5 * len(entry.parts))
    remove(download)
    assert not path.exists()
    assert list_downloads() == []


def test_a_catalogue_model_is_removed_by_its_name(models_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pull_catalogue_model()
    assert main(["pull", "--remove", NAME]) == 0
    assert capsys.readouterr().out == f"removed {NAME} (0 MB)\n"
    assert files_in(path.parent, models_cache) == []


@pytest.mark.parametrize("by", ["url", "file name"])
def test_a_url_download_is_removed_by_url_or_file_name(
    by: str, model_hub: ModelHub, pull_file: Callable[..., Path], models_cache: Path
) -> None:
    path, other = pull_file("model.gguf", query="?token=secret"), pull_file("other.gguf")
    name = f"{model_hub.file_url('model.gguf')}?token=secret" if by == "url" else "model.gguf"
    assert main(["pull", "--remove", name]) == 0
    assert not path.parent.exists()
    assert other.is_file()
    assert [download.name for download in list_downloads()] == ["other.gguf"]


def test_a_file_name_from_several_urls_is_ambiguous(model_hub: ModelHub, pull_file: Callable[..., Path]) -> None:
    pull_file("a/model.gguf")
    pull_file("b/model.gguf")
    with pytest.raises(
        ModelError, match="'model.gguf' was downloaded from several URLs; use one of these instead: http"
    ):
        find_downloads("model.gguf")
    assert [download.source for download in find_downloads(model_hub.file_url("a/model.gguf"))] == [
        model_hub.file_url("a/model.gguf")
    ]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("test/tiny", []),
        ("test/tiny:q8_0", ["test/tiny/big-00001-of-00002.gguf", "test/tiny/tiny-q4_0.gguf"]),
        ("test/tiny:Q8_0", ["test/tiny/big-00001-of-00002.gguf", "test/tiny/tiny-q4_0.gguf"]),
        ("test/tiny/tiny-q4_0.gguf", ["test/tiny/big-00001-of-00002.gguf", "test/tiny/tiny-q8_0.gguf"]),
        ("test/tiny/big-00001-of-00002.gguf", ["test/tiny/tiny-q4_0.gguf", "test/tiny/tiny-q8_0.gguf"]),
    ],
)
def test_models_of_a_repository_are_removed_by_quantization_or_file(
    name: str, left: list[str], pull: Callable[..., Path], models_cache: Path
) -> None:
    for file in ("tiny-q4_0.gguf", "tiny-q8_0.gguf", "big-00001-of-00002.gguf"):
        pull(file)
    assert main(["pull", "--remove", name]) == 0
    assert [download.name for download in list_downloads()] == left
    blobs = list((models_cache / "models--test--tiny" / "blobs").glob("*"))
    assert len(blobs) == len(left) + ("test/tiny/big-00001-of-00002.gguf" in left)  # a model of two parts


def test_removing_the_last_model_removes_the_folder_of_the_repository(
    pull: Callable[..., Path], models_cache: Path
) -> None:
    pull("tiny-q4_0.gguf")
    remove(*find_downloads("test/tiny"))
    assert not (models_cache / "models--test--tiny").exists()
    assert files_in(models_cache) == []


def test_a_removed_model_can_be_downloaded_again(pull: Callable[..., Path]) -> None:
    pull("tiny-q4_0.gguf")
    remove(*find_downloads("test/tiny"))
    assert pull("tiny-q4_0.gguf").read_bytes() == REPO_FILES["tiny-q4_0.gguf"]


def test_the_parts_of_a_model_are_one_download(pull: Callable[..., Path]) -> None:
    path = pull("big-00001-of-00002.gguf")
    (download,) = list_downloads()
    assert (download.name, download.path, download.size) == ("test/tiny/big-00001-of-00002.gguf", path, 6008)


def test_files_of_other_programs_are_left_alone(pull: Callable[..., Path], models_cache: Path) -> None:
    pull("tiny-q4_0.gguf")
    repository = models_cache / "models--test--tiny"
    (repository / "blobs" / "abc").write_bytes(b"GGUF of another program")
    (repository / "snapshots" / "1").mkdir()
    (repository / "snapshots" / "1" / "theirs.gguf").symlink_to(repository / "blobs" / "abc")
    (models_cache / "models--other--one" / "snapshots" / "1").mkdir(parents=True)
    (models_cache / "theirs.gguf").write_bytes(b"GGUF")

    assert [download.name for download in list_downloads()] == ["test/tiny/tiny-q4_0.gguf"]
    remove(*find_downloads("test/tiny"))
    assert files_in(models_cache) == ["abc", "theirs.gguf", "theirs.gguf"]
    with pytest.raises(ModelError, match="no downloaded model is called 'test/tiny'"):
        find_downloads("test/tiny")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("nothing", "`llamafw pull --list` lists them"),
        ("modle.gguf", "did you mean 'model.gguf'?"),
        ("user/repo", "`llamafw pull --list` lists them"),
        (f"{NAME}x", "`llamafw pull --list` lists them"),
        ("http://127.0.0.1:1/x.gguf", "`llamafw pull --list` lists them"),
    ],
)
def test_an_unknown_name_is_one_line(
    name: str, hint: str, pull_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pull_file("model.gguf")
    assert main(["pull", "--remove", "model.gguf", name]) == 1
    assert capsys.readouterr().err == f"llamafw: no downloaded model is called {name!r}; {hint}\n"
    assert len(list_downloads()) == 1


def test_an_unknown_quantization_lists_the_downloaded_files(pull: Callable[..., Path]) -> None:
    pull("tiny-q4_0.gguf")
    with pytest.raises(DownloadError, match="the cache of test/tiny .*'q9'.* tiny-q4_0.gguf"):
        find_downloads("test/tiny:q9")


def test_a_file_that_cannot_be_removed_is_named(
    pull_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pull_file("model.gguf")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DownloadError, match="cannot be removed: Permission denied"):
        remove(*find_downloads("model.gguf"))


def test_without_arguments_the_catalogue_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(CATALOGUE)
