"""Tests that docs/container is right: image and compose file use real settings, and a server starts with them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llamafw import Settings
from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.read_settings import settings_from
from llamafw.settings import from_environment, options
from llamafw.testing.process import running_server
from llamafw.testing.tiny import write_tiny_gguf

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/container"
PAGE = (ROOT / "docs/container.md").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))["services"]["llamafw"]
INSTRUCTIONS: list[tuple[str, str]] = re.findall(r"^([A-Z]+) (.*)$", (FOLDER / "Dockerfile").read_text("utf-8"), re.M)
VARIABLES = {name for opt in options().values() for name in (opt.env, opt.off_env) if name}


def environment() -> dict[str, str]:
    """Return the environment of a container of the compose file: the image's variables, then its own."""
    image = dict(value.split("=", 1) for name, value in INSTRUCTIONS if name == "ENV")
    return image | {name: str(value) for name, value in COMPOSE["environment"].items()}


def exec_form(name: str) -> list[str]:
    """Return the words of an instruction in JSON form, which runs without a shell and so receives signals."""
    (text,) = [value for instruction, value in INSTRUCTIONS if instruction == name]
    return list(json.loads(text[text.index("[") :]))


def parse_settings(argv: Sequence[str]) -> Settings:
    """Return the settings of a container with some flags."""
    parser = CommandParser("llamafw serve", "")
    add_settings(parser)
    return settings_from(parser.parse(argv), environment())


@pytest.mark.inventory("P-09")
def test_variables_exist_and_have_valid_values() -> None:
    assert set(environment()) <= VARIABLES
    assert len(from_environment(environment())) == len(environment())


@pytest.mark.inventory("P-09")
def test_settings_of_the_container() -> None:
    settings = parse_settings([])
    assert (settings.host, settings.port, settings.model) == ("0.0.0.0", 8080, "/models/my_model.gguf")
    assert (settings.ctx_size, settings.parallel, settings.metrics) == (4096, 2, True)

    assert f"{settings.port}:{settings.port}" in COMPOSE["ports"]
    assert f"EXPOSE {settings.port}" in [" ".join(instruction) for instruction in INSTRUCTIONS]
    assert any(volume.startswith("./models:/models") for volume in COMPOSE["volumes"])
    assert float(COMPOSE["stop_grace_period"].removesuffix("s")) > settings.timeout_graceful_shutdown


@pytest.mark.inventory("P-09")
def test_commands_on_the_page_have_valid_flags_and_variables() -> None:
    lines = [shlex.split(line) for line in re.findall(r"^docker run .*$", PAGE, re.M)]
    assert len(lines) == 2
    for words in lines:
        image = words.index("llamafw")
        parse_settings(words[image + 1 :])
        variables = [words[i + 1].split("=", 1)[0] for i, word in enumerate(words) if word == "--env"]
        assert set(variables) <= VARIABLES

    mentioned = set(re.findall(r"`(LLAMA\w+)", PAGE))
    assert mentioned
    assert mentioned <= VARIABLES


def test_image_is_built_from_the_repository() -> None:
    assert (FOLDER / COMPOSE["build"]["context"]).resolve() == ROOT
    assert (ROOT / COMPOSE["build"]["dockerfile"]).samefile(FOLDER / "Dockerfile")

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert exec_form("ENTRYPOINT")[0] in project["scripts"]
    assert [value for name, value in INSTRUCTIONS if name == "USER"] == ["llamafw"]

    min_version = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    images = [value for name, value in INSTRUCTIONS if name == "FROM"]
    assert len({image.split()[0] for image in images}) == 1  # both stages must have the same Python
    assert tuple(map(int, re.findall(r"\d+", images[0])[:2])) >= min_version


@pytest.mark.inventory("P-09")
def test_server_starts_with_the_environment_of_the_container(tmp_path: Path) -> None:
    """Use the image's entry point, environment and health check, with another model and a free port."""
    assert exec_form("ENTRYPOINT") == ["llamafw", "serve"]  # the command of `running_server`
    model = write_tiny_gguf(tmp_path / "tiny.gguf", n_ctx=4096)
    environ = environment() | {"LLAMA_ARG_MODEL": str(model), "LLAMA_ARG_PORT": "0"}

    with running_server(None, ready=True, **environ) as server:
        port = server.url.rpartition(":")[2]
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/props", timeout=60).json()["total_slots"] == 2
        assert httpx.get(f"{url}/props", timeout=60).json()["default_generation_settings"]["n_ctx"] == 2048
        assert "llamacpp:requests_processing" in httpx.get(f"{url}/metrics", timeout=60).text
        assert is_healthy(port)
        server.terminate()

    assert not is_healthy(port)


def is_healthy(port: str) -> bool:
    """Return whether the image's health check succeeds."""
    (check,) = [value for name, value in INSTRUCTIONS if name == "HEALTHCHECK"]
    python, *arguments = json.loads(check[check.index("[") :])
    assert python == "python"
    result = subprocess.run(
        [sys.executable, *arguments], env={"LLAMA_ARG_PORT": port}, capture_output=True, check=False
    )
    return result.returncode == 0
