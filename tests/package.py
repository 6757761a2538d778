"""Build sdist and wheel, install the wheel in a fresh environment without a compiler, and try it. ``make package``."""

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


def run(*command: str | Path, **environ: str) -> str:
    """Run a command and return what it printed; stop if it fails."""
    words = [str(part) for part in command]
    result = subprocess.run(words, env={**os.environ, **environ}, check=False, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{command} failed:\n{result.stdout}\n{result.stderr}")
    return result.stdout


def main() -> None:
    """Build, look inside, install, run."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        names = zipfile.ZipFile(wheel).namelist()
        packages = "llamafw", "llamafw_plugins", "llamafw_backends"
        contract = (f"llamafw/testing/contract/{name}" for name in ("hooks.py", "schemathesis.toml"))
        for name in ("llamafw/openapi.yaml", *contract, *(f"{package}/py.typed" for package in packages)):
            assert name in names, f"{name} is not in the wheel"
        strange = [name for name in names if not name.startswith((*packages, "llamafw-"))]
        assert not strange, f"the wheel holds {strange}"
        with tarfile.open(sdist) as tar:
            assert any(name.endswith("/openapi.yaml") for name in tar.getnames()), "openapi.yaml is not in the sdist"
        venv.create(folder / "venv", with_pip=True)
        scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        run(scripts / "python", "-m", "pip", "install", "--quiet", wheel, CC="/nonexistent", CXX="/nonexistent")
        print(run(scripts / "llamafw", "version"), end="")
        assert "llamafw:numba" in run(scripts / "llamafw", "plugins")
        assert "openapi: 3.0.3" in run(scripts / "llamafw", "spec")
        for kind in KINDS:
            project = folder / f"new-{kind}"
            run(scripts / "llamafw", "plugin", "new", kind, f"new-{kind}", "--folder", project)
            (module,) = project.glob("llamafw_*.py")
            if kind not in KINDS_WITH_STATE:  # those are classes, which only an entry point can name
                assert module.name in run(scripts / "llamafw", "plugins", "--plugin", module)
        for command in ("plugin check llamafw", "contract-test"):  # they need packages that the wheel does not
            done = subprocess.run([scripts / "llamafw", *command.split()], check=False, capture_output=True, text=True)
            assert done.returncode == 1, command
            assert "not installed: pip install " in done.stderr, done.stderr
    print("package: wheel and sdist are sound, and install without a compiler")


if __name__ == "__main__":
    main()
