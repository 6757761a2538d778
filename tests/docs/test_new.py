"""``llamafw plugin new``: packages of every kind are built, installed, tested, linted and type-checked."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from llamafw.cli.main import main
from llamafw.cli.new import KINDS, KINDS_WITH_KERNEL, MAX_NAME_LENGTH, package_files
from support.install import Environ, install, run_tests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the fixtures build, install and test 19 packages

NAMES = {kind: f"my-{kind}" for kind in KINDS}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Return the folder of a new package of each kind."""
    home = tmp_path_factory.mktemp("new")
    folders = {kind: home / f"llamafw-{name}" for kind, name in NAMES.items()}
    for kind, folder in folders.items():
        assert main(["plugin", "new", kind, NAMES[kind], "--folder", str(folder)]) == 0
    return folders


@pytest.fixture(scope="module")
def environ(projects: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environ:
    """Return the environment of a Python in which all packages are installed."""
    return install(list(projects.values()), tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def outcomes(
    projects: Mapping[str, Path], environ: Environ, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """Return the outcomes of each package's own tests."""
    config = projects["sampler"] / "pyproject.toml"
    return run_tests(list(projects.values()), environ, tmp_path_factory.mktemp("report"), config=config)


@pytest.mark.parametrize("kind", KINDS)
def test_new_package_passes_its_own_tests(kind: str, outcomes: Mapping[str, list[str]]) -> None:
    results = outcomes[f"llamafw-{NAMES[kind]}"]
    assert "passed" in results
    assert set(results) <= {"passed", "skipped"}


def test_new_packages_pass_strict_type_checks(projects: Mapping[str, Path], environ: Environ) -> None:
    modules = [str(path) for folder in projects.values() for path in folder.glob("llamafw_*.py")]
    assert len(modules) == len(KINDS) + len(KINDS_WITH_KERNEL)
    pytest.importorskip("mypy")
    run_tool("mypy", "--strict", *modules, cwd=projects["sampler"].parent, environ=environ)


@pytest.mark.parametrize("name", ["x", "a" + "-bcdefgh" * 4 + "-" + "i" * 6])
def test_new_packages_are_formatted_and_linted(name: str, tmp_path: Path) -> None:
    """With the shortest and with the longest name, for which lines could be joined or become too long."""
    pytest.importorskip("ruff")
    assert len(name) in (1, MAX_NAME_LENGTH)
    for kind in KINDS:
        for place, text in package_files(kind, name).items():
            path = tmp_path / kind / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    assert len(list(tmp_path.glob("*/tests/*.py"))) == len(KINDS)
    run_tool("ruff", "check", ".", cwd=tmp_path)
    run_tool("ruff", "format", "--check", ".", cwd=tmp_path)


def run_tool(*command: str, cwd: Path, environ: Environ | None = None) -> None:
    """Run a tool that is a Python module; fail with its output if it fails."""
    process = subprocess.run(
        [sys.executable, "-m", *command], env=environ, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_all_files_are_written_without_placeholders(kind: str) -> None:
    texts = package_files(kind, "a-b")
    assert set(texts) == {
        "pyproject.toml",
        "llamafw_a_b.py",
        "tests/test_a_b.py",
        "README.md",
        "LICENSE",
        ".gitignore",
        ".github/workflows/test.yml",
        *(["llamafw_a_b_kernel.py"] if kind in KINDS_WITH_KERNEL else []),
    }
    assert "# llamafw-a-b" in texts["README.md"]
    assert "${{ matrix.python }}" in texts[".github/workflows/test.yml"]
    for name, text in texts.items():
        assert "$" not in text.replace("${{ matrix", "").replace('{"$ref"', ""), name


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("smapler", "x", "unknown kind 'smapler'; did you mean 'sampler'?"),
        ("nonsense", "x", "unknown kind 'nonsense'; the kinds are sampler, chat-format"),
        ("sampler", "Top_A", "'Top_A' is not a valid name: use lower-case words joined by hyphens, a letter first"),
        ("sampler", "Top_A", ", such as 'top-a'"),
        ("sampler", "../x", "'../x' is not a valid name"),
        ("sampler", "", "'' is not a valid name"),
        ("sampler", "1st", "'1st' is not a valid name"),
        ("sampler", "a" * 41, "at most 40 characters"),
        ("sampler", "mirostat", "is registered by both llamafw:samplers and llamafw-mirostat"),
        ("sampler", "top-k", "top_k"),
        ("architecture", "llama", "is registered by both llamafw:architectures and llamafw-llama"),
        ("asgi", "threads", "the flag --threads is added by both llamafw and llamafw-threads"),
        ("command", "serve", "'serve' is a command of llamafw itself"),
        ("pages", "props", "the server already has /props"),
        ("pages", "docs", "the server already has /docs"),
        ("endpoint", "completions", "POST /v1/completions is defined by both"),
    ],
)
def test_invalid_arguments_write_nothing(
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


def test_existing_files_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()  # an empty folder is used
    assert main(["plugin", "new", "command", "hello", "--folder", str(tmp_path / "mine")]) == 0
    before = (tmp_path / "mine/README.md").read_text("utf-8")
    assert main(["plugin", "new", "sampler", "hello", "--folder", str(tmp_path / "mine")]) == 2
    assert "already exists and is not an empty folder; choose another with --folder" in capsys.readouterr().err
    assert (tmp_path / "mine/README.md").read_text("utf-8") == before
    (tmp_path / "file").touch()
    assert main(["plugin", "new", "sampler", "hello", "--folder", str(tmp_path / "file")]) == 2


def test_plugin_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin"]) == 0
    help_text = capsys.readouterr().out
    assert "new " in help_text
    assert "check " in help_text
    assert main(["plugin", "knew"]) == 2
    assert "unknown command 'knew'; did you mean 'new'?" in capsys.readouterr().err
    assert main(["plugin", "xyz"]) == 2
    assert "the commands are new and check" in capsys.readouterr().err


@pytest.mark.parametrize("exists", [False, True])
def test_package_that_cannot_be_written_leaves_nothing(
    exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, real = tmp_path / "mine", Path.write_text
    if exists:
        folder.mkdir()

    def write_text(self: Path, *given: str) -> int:
        if self.name == "README.md":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *given)

    command = ["plugin", "new", "sampler", "mine", "--folder", str(folder)]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_text)
        assert main(command) == 2
    assert f"plugin new: {folder}: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == []
    assert main(command) == 0
