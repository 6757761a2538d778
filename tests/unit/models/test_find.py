"""The settings that name a model, and the arguments of ``llamafw pull``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llamafw import ModelError, SettingsError
from llamafw.cli import main
from llamafw.models import find, huggingface, url
from llamafw.models.catalogue import CATALOGUE
from llamafw.models.find import find_model, model_id
from llamafw.models.folders import models_dir
from llamafw.settings import Settings
from support.model_hub import ModelHub, Repository

DEFAULTS: dict[str, Any] = {"token": None, "offline": False, "progress": True}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the functions that download; return the list of their calls."""
    recorded: list[Any] = []

    def record(*args: Any, **kwargs: Any) -> Path:
        recorded.append((args, kwargs))
        return Path("downloaded")

    monkeypatch.setitem(CATALOGUE, "name", CATALOGUE["smollm2-135m"])
    monkeypatch.setattr(find, "pull", record)
    monkeypatch.setattr(huggingface, "pull_repo", record)
    monkeypatch.setattr(url, "pull_url", record)
    return recorded


@pytest.mark.parametrize(
    ("settings", "call"),
    [
        (Settings(), (("smollm2-135m",), {"progress": True, "offline": False})),
        (Settings(model="name", offline=True), (("name",), {"progress": True, "offline": True})),
        pytest.param(
            Settings(hf_repo="u/r:Q8_0"), (("u/r:Q8_0", None), DEFAULTS), marks=pytest.mark.inventory("C-061")
        ),
        pytest.param(
            Settings(hf_repo="u/r", model="m.gguf"), (("u/r", "m.gguf"), DEFAULTS), marks=pytest.mark.inventory("C-059")
        ),
        pytest.param(
            Settings(hf_repo="u/r", hf_file="f.gguf"),
            (("u/r", "f.gguf"), {"path": None} | DEFAULTS),
            marks=pytest.mark.inventory("C-062"),
        ),
        (
            Settings(hf_repo="u/r", hf_file="f.gguf", model="m.gguf", hf_token="t", offline=True),
            (("u/r", "f.gguf"), {"path": Path("m.gguf"), "token": "t", "offline": True, "progress": True}),
        ),
        pytest.param(
            Settings(model_url="https://h/m.gguf"),
            (("https://h/m.gguf",), {"path": None} | DEFAULTS),
            marks=pytest.mark.inventory("C-060"),
        ),
        pytest.param(
            Settings(model_url="https://h/m.gguf", model="here/m.gguf"),
            (("https://h/m.gguf",), {"path": Path("here/m.gguf")} | DEFAULTS),
            marks=pytest.mark.inventory("C-059"),
        ),
    ],
)
def test_settings_choose_the_download(settings: Settings, call: Any, calls: list[Any]) -> None:
    assert find_model(settings) == Path("downloaded")
    assert calls == [call]


@pytest.mark.inventory("C-059")
@pytest.mark.parametrize("name", ["a/b", "b.gguf"])
def test_a_missing_file_is_refused(name: str, calls: list[Any]) -> None:
    with pytest.raises(ModelError, match=f"the model file {name} does not exist"):
        find_model(Settings(model=name))
    assert calls == []


@pytest.mark.parametrize(("name", "hint"), [("smolm2-135m", "did you mean"), ("xyz", "available: ")])
def test_an_unknown_name_is_refused(name: str, hint: str, calls: list[Any]) -> None:
    with pytest.raises(ModelError, match=f"'{name}' is neither a file nor a model of the catalogue; {hint}"):
        find_model(Settings(model=name))
    assert calls == []


@pytest.mark.inventory("C-059")
def test_an_existing_file_is_used_as_it_is(tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain").write_text("")
    assert find_model(Settings(model="plain")) == Path("plain")
    assert find_model(Settings(model=str(tmp_path))) == tmp_path  # a plugin may open a folder
    assert calls == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(hf_repo="u/r", model_url="https://h/m"), "--hf-repo and --model-url both name a model"),
        (Settings(hf_file="f.gguf"), "--hf-file needs --hf-repo"),
        (Settings(hf_file="f.gguf", model_url="https://h/m"), "--hf-file needs --hf-repo"),
    ],
)
def test_contradicting_settings_are_refused(settings: Settings, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        find_model(settings)


@pytest.mark.inventory("C-060", "C-061", "C-062")
def test_pull_downloads_repositories_and_urls(model_hub: ModelHub, capsys: pytest.CaptureFixture[str]) -> None:
    model_hub.files["a.gguf"] = b"GGUF one"
    model_hub.repositories["u/r"] = Repository({"b-q4_0.gguf": b"GGUF two", "c.gguf": b"GGUF three"})
    assert main(["pull", "--quiet", "u/r", model_hub.file_url("a.gguf")]) == 0
    assert main(["pull", "--quiet", "u/r", "--hf-file", "c.gguf"]) == 0
    contents = [Path(line).read_text() for line in capsys.readouterr().out.splitlines()]
    assert contents == ["GGUF two", "GGUF one", "GGUF three"]
    assert main(["pull", "--offline", "u/r:q4_0"]) == 0
    assert main(["pull", model_hub.file_url("a.gguf"), "--hf-file", "c.gguf"]) == 2
    assert "pull: --hf-file needs a repository USER/REPO, but http://" in capsys.readouterr().err


@pytest.mark.inventory("P-03")
@pytest.mark.usefixtures("models_cache")
@pytest.mark.parametrize(
    ("flags", "code"),
    [(["-hf", "u/r", "--offline"], 1), (["-mu", "http://127.0.0.1:1/x.gguf"], 1), (["-hf", "wrong"], 2)],
)
def test_a_failed_download_is_reported_in_one_line(flags: list[str], code: int) -> None:
    command = [sys.executable, "-m", "llamafw", "serve", "--port", "0", *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == code
    assert result.stderr.startswith("llamafw: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("models_cache")
def test_the_hub_client_is_imported_only_when_needed() -> None:
    code = (
        "import sys; import llamafw.cli.serve, llamafw.cli.pull, llamafw.cli.bench; "
        "print(*({'huggingface_hub', 'httpx2', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_model_ids_are_catalogue_names_or_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAFW_CACHE", str(tmp_path / "cache"))
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert model_id(models_dir() / file) == "smollm2-135m"
    assert model_id(tmp_path / file) == "SmolLM2-135M-Instruct.Q4_1"
    assert model_id(Path("folder/big-Q8_0-00001-of-00003.gguf")) == "big-Q8_0"
    assert model_id(Path("folder")) == "folder"
