"""Tests that the CI workflow is well-formed and runs the same checks as .ci/run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
COMMANDS = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]


def test_workflow_runs_for_pull_requests_and_main() -> None:
    triggers = WORKFLOW[True]  # YAML 1.1 reads the key "on" as true
    assert triggers["push"] == {"branches": ["main"]}
    assert "pull_request" in triggers


@pytest.mark.parametrize("name", JOBS)
def test_jobs_have_a_runner_and_steps(name: str) -> None:
    job = JOBS[name]
    assert job["runs-on"]
    assert job["timeout-minutes"] > 0

    assert len(job["steps"]) > 2
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]), f"pin {step['uses']} to a major version"


def test_make_commands_are_targets_of_the_makefile() -> None:
    named = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert len(named) >= 3
    assert set(named) <= TARGETS


def test_commands_without_make_do_what_make_quick_does() -> None:
    """Windows has no make, so the quick tests are started without it."""
    others = [command for command in COMMANDS if not command.startswith("make ")]
    assert others == ['python -m pip install --editable ".[test]"', 'python -m pytest -m "not slow"']
    quick = (ROOT / "Makefile").read_text("utf-8").split("\nquick:")[1].split("\n\n")[0]
    assert re.search(r'-m pytest( -n \$\(WORKERS\) --dist loadfile)? -m "not slow"', quick)  # in one process or several


def test_workflow_runs_every_check_of_the_ci_script() -> None:
    checks = re.findall(r"^ *make (\w+)", (ROOT / ".ci/run").read_text("utf-8"), re.M)
    assert checks == ["node", "test", "lint", "package"]
    workflow = {command.split()[1] for command in COMMANDS if command.startswith("make ")}
    # coverage runs all tests; checkpoints are made once, so only the workflow makes them again
    assert workflow == {"node", "coverage", "lint", "package", "checkpoints"}


def test_workflow_covers_all_supported_versions_of_python() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    supported = set(re.findall(r"Programming Language :: Python :: (3\.\d+)", project))
    assert len(supported) == 4

    matrix = JOBS["quick"]["strategy"]["matrix"]
    full = {
        step["with"]["python-version"] for step in JOBS["full"]["steps"] if "python-version" in step.get("with", {})
    }
    assert {*matrix["python"], *full} == supported
    systems = {*matrix["os"], *(entry["os"] for entry in matrix["include"])}
    assert {re.sub(r"-[\d.]+", "", system) for system in systems} == {"ubuntu", "ubuntu-arm", "macos", "windows"}


def test_dependabot_updates_packages_and_actions() -> None:
    config = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text("utf-8"))
    assert {update["package-ecosystem"] for update in config["updates"]} == {"pip", "github-actions"}
