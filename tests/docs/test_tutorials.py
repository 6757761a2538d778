"""docs/plugins: every block that names its file is written and run; every request is answered by a server with it."""

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

from llamafw.cli.new import distribution
from llamafw.cli.parser import Parser, add_settings, load_plugins, settings_from, split_plugin_flags
from llamafw.cli.plugin_flags import plugin_flags
from llamafw.testing.plugin import running

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/plugins").glob("*.md"))


def files(page: Path) -> dict[str, str]:
    """The Python blocks of a page, by the names in their first lines."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)
    return {block.split("\n", 1)[0].removeprefix("# "): block for block in blocks}


def commands(page: Path, word: str) -> list[list[str]]:
    """The lines of a page's shell blocks that begin with ``word``."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{word} ")]


SERVED = [page for page in PAGES if commands(page, "curl")]


def write(page: Path, folder: Path) -> None:
    for name, text in files(page).items():
        (folder / name).write_text(text, "utf-8")


def test_every_block_names_its_file() -> None:
    for page in PAGES:
        assert all(re.fullmatch(r"\w+\.py", name) for name in files(page)), page.name


def test_the_tests_of_all_pages_pass(tmp_path: Path) -> None:
    for page in PAGES:
        write(page, tmp_path)
    options = [
        "-q",
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(tmp_path),
        "--import-mode=prepend",
        "-p",
        "no:cacheprovider",
    ]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "pytest", *options, str(tmp_path)], env=environ, check=True)


def test_the_project_file_is_that_of_the_examples() -> None:
    page = (ROOT / "docs/plugins/publish.md").read_text("utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```", page, re.S | re.M)
    example = (ROOT / "examples/llamafw-smooth/pyproject.toml").read_text("utf-8")
    shown, real = (shape(tomllib.loads(text)) for text in (block, example))
    assert shown == real
    workflow, contract = (yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M))
    assert workflow == yaml.safe_load(distribution("sampler", "something")[".github/workflows/test.yml"])
    runs = [step["run"] for job in contract["jobs"].values() for step in job["steps"] if "run" in step]
    assert runs[-1].split()[:2] == ["llamafw", "contract-test"]


def shape(value: Any) -> Any:
    """What a table has, without what differs from package to package."""
    return {key: shape(part) for key, part in value.items() if key != "llamafw"} if isinstance(value, dict) else None


@pytest.mark.parametrize("page", SERVED, ids=lambda page: page.stem)
async def test_a_server_started_so_answers(
    page: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    ((_, _, *argv),) = commands(page, "llamafw serve")
    first, rest = split_plugin_flags(argv)
    parser = Parser("llamafw serve", "", parents=plugin_flags(load_plugins(first)))
    add_settings(parser)
    settings = settings_from(parser.parse(rest), {}, plugin=first.plugin, plugin_option=first.plugin_option)
    settings = replace(settings, backend=settings.backend or "deterministic", validate_responses=True)
    async with running(tiny_model, settings) as asgi, httpx.AsyncClient(transport=httpx.ASGITransport(asgi)) as client:
        for _, url, flag, data in commands(page, "curl"):
            assert flag == "-d"
            response = await client.post(url, content=data)
            assert response.status_code == 200, response.text
            assert "x-llamafw-ignored-fields" not in response.headers
