"""Build projects, install all of them into one environment, and run their tests."""

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
"""Builds the wheels of all projects in one process. pip would start a process for each."""

Environ = Mapping[str, str]
"""Environment variables."""


def install(projects: Sequence[Path], folder: Path) -> Environ:
    """Install projects below ``folder``, and return the environment variables that make Python find them."""
    tools, wheels, site = (folder / name for name in ("tools", "wheels", "site"))
    wheels.mkdir(parents=True)
    _pip("hatchling>=1.26", "packaging", "pathspec", "pluggy", "trove-classifiers", "--target", tools)
    environ = {**os.environ, "PYTHONPATH": str(tools)}
    subprocess.run([sys.executable, "-c", BUILD, wheels, *projects], env=environ, check=True)
    _pip("--no-index", "--target", site, *wheels.glob("*.whl"))
    return {**os.environ, "PYTHONPATH": str(site)}


def run_tests(projects: Sequence[Path], environ: Environ, folder: Path, *, config: Path) -> dict[str, list[str]]:
    """Run the tests of all projects in one process, and return the outcomes by project.

    Returns
    -------
    dict
        From the name of each project's folder to one text per test: ``passed``, ``skipped``, or why it failed.
    """
    report = folder / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "-c", str(config), "--rootdir", str(projects[0].parent)]
    options.append(f"--junitxml={report}")
    tests = [str(project / "tests") for project in projects]
    subprocess.run([sys.executable, "-m", "pytest", *options, *tests], env=environ, check=False)

    outcomes: dict[str, list[str]] = {project.name: [] for project in projects}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.attrib["classname"].split(".")[0]
        outcomes[name].append(" ".join(map(_describe, case)) or "passed")
    return outcomes


def _describe(outcome: ElementTree.Element) -> str:
    return outcome.tag if outcome.tag == "skipped" else f"{outcome.tag}: {outcome.get('message')}"


def _pip(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *arguments], check=True)
