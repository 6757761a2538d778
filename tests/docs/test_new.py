"""``llamafw plugin new``: a package of every kind, built and installed, its tests run, its types checked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from llamafw.cli.main import main
from llamafw.cli.new import KINDS, distribution
from support.install import Environ, install, run_tests

NAMES = {kind: f"my-{kind}" for kind in KINDS}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A new package of every kind."""
    home = tmp_path_factory.mktemp("new")
    folders = {kind: home / f"llamafw-{name}" for kind, name in NAMES.items()}
    for kind, folder in folders.items():
        assert main(["plugin", "new", kind, NAMES[kind], "--folder", str(folder)]) == 0
    return folders


@pytest.fixture(scope="module")
def installed(projects: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environ:
    return install(list(projects.values()), tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def outcomes(
    projects: Mapping[str, Path], installed: Environ, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    config = projects["sampler"] / "pyproject.toml"
    return run_tests(list(projects.values()), installed, tmp_path_factory.mktemp("report"), config=config)


@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_its_own_tests_at_once(kind: str, outcomes: Mapping[str, list[str]]) -> None:
    found = outcomes[f"llamafw-{NAMES[kind]}"]
    assert "passed" in found
    assert set(found) <= {"passed", "skipped"}


def test_types_are_right_and_lines_are_in_order(projects: Mapping[str, Path], installed: Environ) -> None:
    modules = [str(path) for folder in projects.values() for path in folder.glob("llamafw_*.py")]
    assert len(modules) == len(KINDS)
    home = projects["sampler"].parent
    for tool, paths in (("ruff check --select E,F,I,W,B,UP,RUF100", [str(home)]), ("mypy --strict", modules)):
        name, *options = tool.split()
        pytest.importorskip(name)
        command = [sys.executable, "-m", name, *options, *paths]
        done = subprocess.run(command, env=installed, cwd=home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_files_say_what_they_are(kind: str) -> None:
    texts = distribution(kind, "a-b")
    assert set(texts) == {
        "pyproject.toml",
        "llamafw_a_b.py",
        "tests/test_a_b.py",
        "README.md",
        "LICENSE",
        ".gitignore",
        ".github/workflows/test.yml",
    }
    assert "# llamafw-a-b" in texts["README.md"]
    assert "${{ matrix.python }}" in texts[".github/workflows/test.yml"]
    for name, text in texts.items():
        assert "$" not in text.replace("${{ matrix", "").replace('{"$ref"', ""), name


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("smapler", "x", "there is no kind 'smapler'; there are sampler, chat-format"),
        ("sampler", "Top_A", "'Top_A' is no name: lower-case words with hyphens, 40 letters; top-a would be one"),
        ("sampler", "../x", "'../x' is no name"),
        ("sampler", "", "'' is no name"),
        ("sampler", "1st", "'1st' is no name"),
        ("sampler", "a" * 41, "40 letters"),
        ("sampler", "mirostat", "is registered by both llamafw:samplers and llamafw-mirostat"),
        ("sampler", "top-k", "the field 'top_k' is described differently"),
        ("architecture", "llama", "is registered by both llamafw:architectures and llamafw-llama"),
        ("asgi", "threads", "conflicting option string: --threads"),
        ("command", "serve", "the command 'serve' is llamafw's own"),
        ("pages", "props", "/props is there already"),
        ("pages", "docs", "/docs is there already"),
        ("endpoint", "completions", "POST /v1/completions is defined by both openapi.yaml and plugin"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    kind: str,
    name: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugin", "new", kind, name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    assert main(["plugin", "new", "command", "hello", "--folder", str(tmp_path / "mine")]) == 0  # an empty one will do
    before = (tmp_path / "mine/README.md").read_text("utf-8")
    assert main(["plugin", "new", "sampler", "hello", "--folder", str(tmp_path / "mine")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "mine/README.md").read_text("utf-8") == before
    (tmp_path / "file").touch()
    assert main(["plugin", "new", "sampler", "hello", "--folder", str(tmp_path / "file")]) == 2


def test_the_two_commands_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin"]) == 0
    assert "new" in capsys.readouterr().out
    assert main(["plugin", "knew"]) == 2
    assert "there are new and check" in capsys.readouterr().err
