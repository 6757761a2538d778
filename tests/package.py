"""Build sdist and wheel, install the wheel into a fresh environment without a compiler, and try its commands.

``make package`` runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

from llamafw.cli.new import KINDS, KINDS_WITH_STATE

ROOT = Path(__file__).parents[1]
PACKAGES = ("llamafw", "llamafw_plugins", "llamafw_backends")
DATA_FILES = (
    "llamafw/openapi.yaml",
    "llamafw/testing/contract/hooks.py",
    "llamafw/testing/contract/schemathesis.toml",
    "llamafw_plugins/webui/static/page/index.html",
    "llamafw_plugins/webui/static/page/webui/page.js",
    *(f"{package}/py.typed" for package in PACKAGES),
)
"""Files that the wheel must contain, and that a mistake in the build would leave out."""


def run(*command: str | Path, **environ: str) -> str:
    """Run a command and return its output.

    If it fails, exit with the output.
    """
    words = [str(part) for part in command]
    result = subprocess.run(words, env={**os.environ, **environ}, check=False, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{command} failed:\n{result.stdout}\n{result.stderr}")
    return result.stdout


def check_contents(wheel: Path, sdist: Path) -> None:
    """Check which files the wheel and the sdist contain."""
    names = zipfile.ZipFile(wheel).namelist()
    for name in DATA_FILES:
        assert name in names, f"{name} is not in the wheel"
    unexpected = [name for name in names if not name.startswith((*PACKAGES, "llamafw-"))]
    assert not unexpected, f"the wheel contains {unexpected}"
    sources = [name for name in names if "webui/source" in name]
    assert not sources, f"the wheel contains sources of the chat page: {sources}"

    with tarfile.open(sdist) as tar:
        for name in ("openapi.yaml", "plugins/llamafw_plugins/webui/source/package-lock.json"):
            assert any(member.endswith(f"/{name}") for member in tar.getnames()), f"{name} is not in the sdist"


def check_commands(scripts: Path, folder: Path) -> None:
    """Try the commands of an installed wheel."""
    print(run(scripts / "llamafw", "version"), end="")
    assert "llamafw:numba" in run(scripts / "llamafw", "plugins")
    assert "openapi: 3.0.3" in run(scripts / "llamafw", "spec")

    for kind in KINDS:
        project = folder / f"new-{kind}"
        run(scripts / "llamafw", "plugin", "new", kind, f"new-{kind}", "--folder", project)
        module = project / f"llamafw_new_{kind.replace('-', '_')}.py"
        assert module.is_file()
        if kind in KINDS_WITH_STATE:  # a class, which only the entry point of an installed package can name
            continue
        assert module.name in run(scripts / "llamafw", "plugins", "--plugin", module)

    for command in ("plugin check llamafw", "contract-test"):  # these need the extra "test"
        done = subprocess.run([scripts / "llamafw", *command.split()], check=False, capture_output=True, text=True)
        assert done.returncode == 1, command
        assert "not installed: pip install " in done.stderr, done.stderr


def main() -> None:
    """Build the distribution, check its contents, install it, and try its commands."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        check_contents(wheel, sdist)

        venv.create(folder / "venv", with_pip=True)
        scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        run(scripts / "python", "-m", "pip", "install", "--quiet", wheel, CC="/nonexistent", CXX="/nonexistent")
        check_commands(scripts, folder)
    print("package: wheel and sdist are complete, and the wheel installs without a compiler")


if __name__ == "__main__":
    main()
