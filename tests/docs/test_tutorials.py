"""docs/plugins: the code blocks are written to files, their tests pass, and servers answer the requests."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llamafw.cli.new import package_files
from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.plugin_flags import collect_plugin_flags
from llamafw.cli.read_settings import load_plugins, parse_early_flags, settings_from
from llamafw.settings import Settings
from llamafw.testing.plugin import serve_in_process

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/plugins").glob("*.md"))

Session = tuple[list[str], list[list[str]]]
"""The flags of a ``llamafw serve`` command, and the arguments of the ``curl`` commands after it."""


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)


def python_files(page: Path) -> dict[str, str]:
    """Return the Python blocks of a page by their file names, which are in the first lines."""
    return {block.split("\n", 1)[0].removeprefix("# "): block for block in blocks(page, "python")}


def write_files(page: Path, folder: Path) -> None:
    """Write the Python blocks of a page to files."""
    for name, text in python_files(page).items():
        (folder / name).write_text(text, "utf-8")


def sessions(page: Path) -> list[Session]:
    """Return the servers that a page starts, with the requests that it sends to each."""
    found: list[Session] = []
    for line in "".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["llamafw", "serve"]:
            found.append((words[2:], []))
        elif words[:1] == ["curl"]:
            found[-1][1].append([word for word in words[1:] if word != "-N"])
    return found


SESSIONS = [
    pytest.param(page, flags, requests, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, (flags, requests) in enumerate(sessions(page))
    if requests
]


def settings_of(flags: list[str]) -> Settings:
    """Return the settings of ``llamafw serve`` with these flags, for a server that can be tested quickly."""
    early, rest = parse_early_flags(flags)
    parser = CommandParser("llamafw serve", "")
    add_settings(parser)
    parser.add_flags_of(collect_plugin_flags(load_plugins(early)))
    settings = settings_from(parser.parse(rest), {}, plugin=early.plugin, plugin_option=early.plugin_option)
    return replace(settings, backend=settings.backend or "deterministic", validate_responses=True)


def test_every_python_block_names_its_file() -> None:
    names = [name for page in PAGES for name in python_files(page)]
    assert len(names) > len(PAGES)
    for name in names:
        assert re.fullmatch(r"\w+\.py", name), name


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it runs some 140 tests, which a busy machine may have to compile kernels for
def test_tests_of_all_pages_pass(tmp_path: Path) -> None:
    for page in PAGES:
        write_files(page, tmp_path)
    options = ["-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    options += ["--import-mode=prepend", "-p", "no:cacheprovider"]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-20_000:] + process.stderr[-2000:]
    n_test_files = len(list(tmp_path.glob("test_*.py")))
    assert int(re.findall(r"(\d+) passed", process.stdout)[-1]) >= n_test_files > 0


def test_blocks_are_formatted(tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    for page in PAGES:
        write_files(page, tmp_path)
    command = [sys.executable, "-m", "ruff", "format", "--check", "--diff", "--config", str(ROOT / "pyproject.toml")]
    process = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


def test_publish_page_shows_the_files_of_real_packages() -> None:
    page = ROOT / "docs/plugins/publish.md"
    (block,) = blocks(page, "toml")
    example = (ROOT / "examples/llamafw-smooth/pyproject.toml").read_text("utf-8")
    assert keys_of(tomllib.loads(block)) == keys_of(tomllib.loads(example))

    workflow, contract = map(yaml.safe_load, blocks(page, "yaml"))
    assert workflow == yaml.safe_load(package_files("sampler", "something")[".github/workflows/test.yml"])
    commands = [step["run"] for job in contract["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands[-1].split()[:2] == ["llamafw", "contract-test"]


def keys_of(table: Any) -> Any:
    """Return the keys of a TOML table and its subtables, without values and without the entry points."""
    if not isinstance(table, dict):
        return None
    return {key: keys_of(value) for key, value in table.items() if key != "llamafw"}


@pytest.fixture
def written(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the files of the page to the current folder."""
    write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("written")
@pytest.mark.parametrize(("page", "flags", "requests"), SESSIONS)
async def test_server_answers_the_requests_of_a_page(
    page: Path, flags: list[str], requests: list[list[str]], tiny_model: Path
) -> None:
    settings = settings_of(flags)
    async with (
        serve_in_process(tiny_model, settings) as asgi,
        httpx.AsyncClient(transport=httpx.ASGITransport(asgi)) as client,
    ):
        for url, *data in requests:
            assert data[:1] in ([], ["-d"])
            response = await (client.post(url, content=data[1]) if data else client.get(url))
            assert response.status_code == 200, response.text
            assert "x-llamafw-ignored-fields" not in response.headers


def test_pages_have_sessions() -> None:
    assert len(SESSIONS) >= 10
