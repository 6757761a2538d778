"""``--hf-repo`` with repositories that have a checkpoint and no GGUF model."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import DownloadError, SettingsError
from llamafw.models.downloads import find_downloads, list_downloads, remove
from llamafw.models.find import model_id
from llamafw.models.huggingface import pull_repo
from support.model_hub import ModelHub, Repository

RANDOM = np.random.default_rng(3)
SHARDS = {f"model-0000{n}-of-00002.safetensors": RANDOM.bytes(300_000) for n in (1, 2)}
INDEX = json.dumps({"weight_map": {"a": next(iter(SHARDS)), "b": list(SHARDS)[1]}}).encode()
SMALL = {
    "config.json": b"{}",
    "tokenizer.json": b"{ }",
    "generation_config.json": b'{"top_k": 1}',
    "chat_template.jinja": b"{{ messages }}",
    "1_Pooling/config.json": b"{  }",
    "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
    "model.safetensors.index.json": INDEX,
}
OTHERS = {
    "README.md": b"# tiny",
    "pytorch_model.bin": b"pickle",
    "original/consolidated.00.pth": b"pickle",
    "consolidated.safetensors": RANDOM.bytes(1000),
    "adapter_model.safetensors": RANDOM.bytes(1000),
    "onnx/model.onnx": b"onnx",
}

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def catalogue_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAFW_CACHE", str(tmp_path / "catalogue"))


@pytest.fixture
def repository(model_hub: ModelHub) -> Repository:
    model_hub.repositories["test/tiny"] = Repository(SMALL | SHARDS | OTHERS)
    return model_hub.repositories["test/tiny"]


def pull(repo: str = "test/tiny", file: str | None = None, **options: Any) -> Path:
    return pull_repo(repo, file, **{"progress": False, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("repository")
def test_the_files_of_a_checkpoint_are_downloaded_and_no_others(model_hub: ModelHub) -> None:
    folder = pull()
    assert contents(folder) == SMALL | SHARDS
    assert len(model_hub.downloads()) == len(SMALL | SHARDS)
    assert model_id(folder) == "tiny"


@pytest.mark.usefixtures("repository")
def test_a_second_pull_makes_one_request(model_hub: ModelHub) -> None:
    folder = pull()
    n = len(model_hub.requests)
    assert pull() == folder
    assert len(model_hub.requests) == n + 1
    assert pull(offline=True) == folder
    assert len(model_hub.requests) == n + 1


def test_one_file_of_weights_needs_no_index(repository: Repository) -> None:
    repository.files = {"config.json": b"{}", "model.safetensors": b"weights", "other.safetensors": b"copy", **OTHERS}
    assert contents(pull()) == {"config.json": b"{}", "model.safetensors": b"weights"}


def test_dense_modules_belong_to_the_checkpoint(repository: Repository) -> None:
    files = {
        "config.json": b"{}",
        "model.safetensors": b"weights",
        "2_Dense/config.json": b"{ }",
        "2_Dense/model.safetensors": b"dense",
    }
    repository.files = files | OTHERS
    assert contents(pull()) == files


@pytest.mark.usefixtures("repository")
def test_an_interrupted_download_is_resumed(model_hub: ModelHub) -> None:
    model_hub.faults.cut_after = [10**6] * len(SMALL) + [100_000, 0]  # breaks within the first file of weights, twice
    with pytest.raises(DownloadError, match="the next start resumes the download"):
        pull()
    with pytest.raises(DownloadError, match=r"the cache of test/tiny (lacks|has neither)"):
        pull(offline=True)
    n = len(model_hub.downloads())
    assert contents(pull()) == SMALL | SHARDS
    ranges = [request.headers.get("Range", request.headers.get("range")) for request in model_hub.downloads()[n:]]
    assert ranges == ["bytes=100000-", None]


def test_damaged_weights_are_refused(model_hub: ModelHub, repository: Repository) -> None:
    repository.files = {"config.json": b"{}", "model.safetensors": b"weights"}
    model_hub.faults.corrupt = True
    with pytest.raises(DownloadError, match="not the expected file"):
        pull()


def test_a_revision_can_be_chosen(repository: Repository) -> None:
    repository.revisions = ("main", "v2")
    assert contents(pull("test/tiny@v2")) == SMALL | SHARDS
    with pytest.raises(DownloadError, match="has no revision 'v3'"):
        pull("test/tiny@v3")


@pytest.mark.usefixtures("repository")
def test_the_cache_is_used_if_the_hub_fails(model_hub: ModelHub, caplog: pytest.LogCaptureFixture) -> None:
    folder = pull()
    model_hub.faults.status = 503
    with caplog.at_level(logging.WARNING, "llamafw"):
        assert pull() == folder
    assert "the file in the cache is used" in caplog.text


def test_a_repository_with_gguf_models_has_its_files_chosen_as_before(repository: Repository) -> None:
    repository.files = {**repository.files, "tiny-q8_0.gguf": b"GGUF"}
    assert pull().name == "tiny-q8_0.gguf"


def test_pickled_weights_are_not_used(repository: Repository) -> None:
    repository.files = {"config.json": b"{}", **OTHERS}
    with pytest.raises(
        DownloadError, match=r"neither a GGUF model nor a \*\.safetensors file; .*pytorch_model\.bin .* not used"
    ):
        pull()


@pytest.mark.parametrize(
    "index", [b"{", b"[]", b'{"weight_map": {"a": 1}}', b'{"weight_map": {"a": "../x"}}', b'{"weight_map": {}}']
)
def test_a_damaged_index_is_refused(index: bytes, repository: Repository) -> None:
    repository.files = {"config.json": b"{}", "model.safetensors.index.json": index, **SHARDS}
    with pytest.raises(DownloadError, match="does not name files with weights"):
        pull()


def test_a_missing_file_of_weights_is_named(repository: Repository) -> None:
    repository.files = {"config.json": b"{}", "model.safetensors.index.json": INDEX}
    with pytest.raises(DownloadError, match=r"test/tiny lacks model-00001-of-00002\.safetensors, model-00002"):
        pull()


@pytest.mark.usefixtures("repository")
def test_options_that_choose_a_gguf_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=":Q8_0 chooses nothing; leave it out, and use --requantize"):
        pull("test/tiny:Q8_0")
    with pytest.raises(SettingsError, match="--model names one file"):
        pull(path=tmp_path / "model.gguf")


@pytest.mark.usefixtures("repository")
def test_a_checkpoint_is_listed_and_removed_as_one(models_cache: Path) -> None:
    folder = pull()
    (download,) = list_downloads()
    assert (download.name, download.path) == ("test/tiny", folder)
    assert download.size == sum(map(len, (SMALL | SHARDS).values()))
    assert find_downloads("test/tiny") == [download]
    remove(download)
    assert list_downloads() == []
    assert not (models_cache / "models--test--tiny").exists()


def test_the_id_of_a_folder_is_its_whole_name(tmp_path: Path) -> None:
    (tmp_path / "Tiny-3.2-1B").mkdir()
    assert model_id(tmp_path / "Tiny-3.2-1B") == "Tiny-3.2-1B"
