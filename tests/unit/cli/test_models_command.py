"""`llamafw models` lists, shows and removes what is in the caches, and nothing else."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from llamafw.cli.main import main
from llamafw.models.catalogue import CATALOGUE
from llamafw.models.folders import models_dir
from llamafw.models.wheels import record_path

NAME, ENTRY = next(iter(CATALOGUE.items()))


class Keyboard(io.StringIO):
    """Standard input as a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A downloaded model, in caches that have nothing else."""
    monkeypatch.setenv("LLAMAFW_CACHE", str(tmp_path / "catalogue"))
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "downloads"))
    path = models_dir() / ENTRY.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF of the catalogue")
    record_path(path).write_text(f"{ENTRY.sha256}  {ENTRY.file}\n")
    return path


def test_models_are_listed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert NAME in capsys.readouterr().out
    assert main(["models", "list", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["name"], entry["path"], entry["size"]) == (NAME, str(model), 21)


def test_a_model_is_shown(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", NAME]) == 0
    out = capsys.readouterr().out
    assert all(part in out for part in (NAME, "catalogue", str(model), str(record_path(model))))


@pytest.mark.parametrize(("answer", "removed"), [("y\n", True), ("yes\n", True), ("n\n", False), ("", False)])
def test_removing_asks_first(
    answer: str,
    removed: bool,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", Keyboard(answer))
    assert main(["models", "remove", NAME]) == (0 if removed else 1)
    assert model.exists() is not removed
    assert "[y/N]" in capsys.readouterr().err


def test_without_terminal_removing_needs_yes(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["models", "remove", NAME]) == 2
    assert "--yes" in capsys.readouterr().err
    assert model.exists()
    assert main(["models", "remove", "--yes", "--json", NAME]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == NAME
    assert not model.exists()
    assert not record_path(model).exists()


def test_a_model_is_removed_by_its_path(model: Path) -> None:
    assert main(["models", "remove", "-y", str(model)]) == 0
    assert not model.exists()


def test_paths_outside_of_the_cache_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.gguf"
    other.touch()
    for name in (str(other), "../other.gguf", str(models_dir() / ".." / ".." / "other.gguf")):
        assert main(["models", "remove", "-y", name]) == 1
        assert "llamafw: " in capsys.readouterr().err
    assert other.exists()


def test_a_link_out_of_the_cache_is_not_followed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    models_dir().rename(outside)
    models_dir().mkdir()
    folder = tmp_path / "downloads" / "models--test--tiny"
    blob = outside / ("a" * 64)
    blob.write_bytes(b"GGUF")
    (folder / "snapshots/main").mkdir(parents=True)
    (folder / "snapshots/main/tiny.gguf").symlink_to(blob)
    locks = tmp_path / "downloads/.locks/models--test--tiny"
    locks.mkdir(parents=True)
    (locks / f"{blob.name}.fetch.lock").touch()
    assert main(["models", "remove", "-y", "test/tiny"]) == 1
    assert "is outside of the cache" in capsys.readouterr().err
    assert blob.exists()
    assert (folder / "snapshots/main/tiny.gguf").is_symlink()


@pytest.mark.parametrize(
    "argv", [["list", NAME], ["show"], ["remove"], ["show", "--yes", NAME], ["frobnicate"]], ids=" ".join
)
def test_wrong_usage_exits_with_2(argv: list[str]) -> None:
    assert main(["models", *argv]) == 2
