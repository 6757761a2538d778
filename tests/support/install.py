"""Projects, built and installed as pip does it, side by side in one environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
BUILD = """
import os, sys
from hatchling.build import build_wheel
for path in sys.argv[2:]:
    os.chdir(path)
    build_wheel(sys.argv[1])
"""
"""What pip does for each of them, in one process."""

Environ = Mapping[str, str]


def install(projects: Sequence[Path], folder: Path) -> Environ:
    """Return an environment in which all projects are installed."""
    tools, wheels, site = (folder / name for name in ("tools", "wheels", "site"))
    wheels.mkdir(parents=True)
    _pip("hatchling>=1.26", "packaging", "pathspec", "pluggy", "trove-classifiers", "--target", tools)
    environ = {**os.environ, "PYTHONPATH": str(tools)}
    subprocess.run([sys.executable, "-c", BUILD, wheels, *projects], env=environ, check=True)
    _pip("--no-index", "--target", site, *wheels.glob("*.whl"))
    return {**os.environ, "PYTHONPATH": str(site)}


def run_tests(projects: Sequence[Path], environ: Environ, folder: Path, *, config: Path) -> dict[str, list[str]]:
    """Return, for each project's name, how its tests went: all of them in one process, each with its own output."""
    report = folder / "report.xml"
    options = [
        "-q",
        "-c",
        str(config),
        "--rootdir",
        str(projects[0].parent),
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
    ]
    tests = [str(project / "tests") for project in projects]
    subprocess.run([sys.executable, "-m", "pytest", *options, *tests], env=environ, check=False)
    outcomes: dict[str, list[str]] = {project.name: [] for project in projects}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.attrib["classname"].split(".")[0]
        outcomes[name].append(" ".join(map(_told, case)) or "passed")
    return outcomes


def _told(outcome: ElementTree.Element) -> str:
    return outcome.tag if outcome.tag == "skipped" else f"{outcome.tag}: {outcome.get('message')}"


def _pip(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *arguments], check=True)
