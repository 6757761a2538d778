"""docs/container: the settings of image and compose file are real ones, and a server does what they say."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llamafw.cli.parser import Parser, add_settings, settings_from
from llamafw.settings import from_environment, options
from support.server import running_server
from support.tiny import write_tiny_gguf

ROOT = Path(__file__).parents[2]
HERE = ROOT / "docs/container"
PAGE = (ROOT / "docs/container.md").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text("utf-8"))["services"]["llamafw"]
INSTRUCTIONS: list[tuple[str, str]] = re.findall(r"^([A-Z]+) (.*)$", (HERE / "Dockerfile").read_text("utf-8"), re.M)
VARIABLES = {name for opt in options().values() for name in (opt.env, opt.off_env) if name}


def environment() -> dict[str, str]:
    """What a container of the compose file gets: the image's variables, then its own."""
    image = dict(value.split("=", 1) for name, value in INSTRUCTIONS if name == "ENV")
    return image | {name: str(value) for name, value in COMPOSE["environment"].items()}


def command(name: str) -> list[str]:
    """An instruction's words, which stand there as JSON: a shell between would keep signals from the server."""
    (text,) = [value for instruction, value in INSTRUCTIONS if instruction == name]
    return list(json.loads(text[text.index("[") :]))


def parsed(argv: list[str]) -> Any:
    parser = Parser("llamafw serve", "")
    add_settings(parser)
    return settings_from(parser.parse(argv), environment())


@pytest.mark.inventory("P-09")
def test_every_variable_is_one_of_a_flag_and_has_a_value_that_fits() -> None:
    assert set(environment()) <= VARIABLES
    assert len(from_environment(environment())) == len(environment())


@pytest.mark.inventory("P-09")
def test_the_settings_are_those_meant() -> None:
    settings = parsed([])
    assert (settings.host, settings.port, settings.model) == ("0.0.0.0", 8080, "/models/my_model.gguf")
    assert (settings.ctx_size, settings.parallel, settings.metrics) == (4096, 2, True)
    assert f"{settings.port}:{settings.port}" in COMPOSE["ports"]
    assert f"EXPOSE {settings.port}" in [" ".join(instruction) for instruction in INSTRUCTIONS]
    assert any(volume.startswith("./models:/models") for volume in COMPOSE["volumes"])
    assert float(COMPOSE["stop_grace_period"].removesuffix("s")) > settings.timeout_graceful_shutdown


@pytest.mark.inventory("P-09")
def test_the_commands_of_the_page_are_ones() -> None:
    """What follows the image's name are flags, and what ``--env`` sets is the variable of one."""
    lines = [shlex.split(line) for line in re.findall(r"^docker run .*$", PAGE, re.M)]
    assert len(lines) == 2
    for words in lines:
        image = words.index("llamafw")
        parsed(words[image + 1 :])
        given = [words[i + 1].split("=", 1)[0] for i, word in enumerate(words) if word == "--env"]
        assert set(given) <= VARIABLES
    mentioned = set(re.findall(r"`(LLAMA\w+)", PAGE))
    assert mentioned <= VARIABLES


def test_the_image_is_built_from_what_there_is() -> None:
    assert (HERE / COMPOSE["build"]["context"]).resolve() == ROOT
    assert (ROOT / COMPOSE["build"]["dockerfile"]).samefile(HERE / "Dockerfile")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert command("ENTRYPOINT")[0] in project["scripts"]
    least = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    pythons = [value for name, value in INSTRUCTIONS if name == "FROM"]
    assert len({image.split()[0] for image in pythons}) == 1  # what one stage installs, the other runs
    assert tuple(map(int, re.findall(r"\d+", pythons[0])[:2])) >= least
    assert [value for name, value in INSTRUCTIONS if name == "USER"] == ["llamafw"]


@pytest.mark.inventory("P-09")
def test_a_server_started_so_answers(tmp_path: Path) -> None:
    """The entry point, the environment and the health check, with another model and a port that is free."""
    assert command("ENTRYPOINT") == ["llamafw", "serve"]  # as `running_server` starts it
    model = write_tiny_gguf(tmp_path / "tiny.gguf", n_ctx=4096)
    environ = environment() | {"LLAMA_ARG_MODEL": str(model), "LLAMA_ARG_PORT": "0"}
    with running_server(None, **environ) as server:
        port = server.url.rpartition(":")[2]
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/props").json()["total_slots"] == 2
        assert httpx.get(f"{url}/props").json()["default_generation_settings"]["n_ctx"] == 2048
        assert "llamacpp:requests_processing" in httpx.get(f"{url}/metrics").text
        assert healthy(port)
        server.terminate()
    assert not healthy(port)


def healthy(port: str) -> bool:
    (_, words) = next(one for one in INSTRUCTIONS if one[0] == "HEALTHCHECK")
    python, *rest = json.loads(words[words.index("[") :])
    assert python == "python"
    done = subprocess.run([sys.executable, *rest], env={"LLAMA_ARG_PORT": port}, capture_output=True, check=False)
    return done.returncode == 0
