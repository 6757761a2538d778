"""docs/hooks.md and docs/protocols.md against a running server: who is called, when, how often, and on which thread."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamafw import hookspecs
from support.server import running_server
from support.tiny import write_tiny_gguf

ROOT = Path(__file__).parents[2]
N_GENERATIONS = 3
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def lines(page: str, heading: str) -> dict[str, list[str]]:
    """The line below each heading of a page, in its parts."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return {name: line.split(" · ") for name, line in re.findall(rf"^## {heading}\n\*(.+)\*$", text, re.M)}


HOOKS = lines("docs/hooks.md", r"(\w+)\(.*\)")
PROTOCOLS = lines("docs/protocols.md", r"(\w+)")
SPECS = {name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, f"{hookspecs.NAME}_spec")}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """What the spy told, in order: kind, name and thread."""
    model = write_tiny_gguf(tmp_path_factory.mktemp("spy") / "tiny.gguf")
    plugins = ["--plugin", "llamafw.testing.backend", "--plugin", "support.spy"]
    flags = [*plugins, "-np", "2", "--check-tensors"]
    with running_server(model, *flags, ready=False, PYTHONPATH=str(ROOT / "tests")) as server:
        server.wait_for("ready on ")

        def post(path: str, **body: Any) -> int:
            return httpx.post(f"{server.url}{path}", json=body, timeout=60).status_code

        messages = [{"role": "user", "content": "Hello"}]
        assert post("/completion", prompt="Hello", n_predict=4, grammar="root ::= [a-z]+") == 200
        assert post("/v1/chat/completions", messages=messages, max_tokens=4, tools=[TOOL]) == 200
        assert post("/v1/chat/completions", messages=messages, max_tokens=4, stream=True) == 200
        assert post("/completion") == 400
        server.terminate()
        server.wait_for_end()
        found = [line.strip().split(" ", 2) for line in server.output if line.startswith("SPY ")]
    return [[kind, *rest.split(" · ")] for _, kind, rest in found]


def test_every_hook_says_who_is_called() -> None:
    assert set(HOOKS) == set(SPECS)
    for name, (who, *_) in HOOKS.items():
        first = getattr(SPECS[name], f"{hookspecs.NAME}_spec")["firstresult"]
        assert who == ("First" if first else "All"), name


@pytest.mark.parametrize("name", SPECS)
def test_a_hook_is_called_as_often_and_where_the_page_says(told: list[list[str]], name: str) -> None:
    _, when, thread = HOOKS[name]
    found = [where for kind, what, where in told if (kind, what) == ("hook", name)]
    expected = N_GENERATIONS if when == "once per generation" else 1  # there was one failure, and one model
    assert found == [thread] * expected
    assert when.startswith("once")


def test_hooks_come_in_the_order_of_the_page(told: list[list[str]]) -> None:
    """First the tables, then the flags, then what builds the server, then what loads the model."""
    stages = ["once, at the start", "once, before flags are parsed", "once, while the server is built"]
    order = [name for kind, name, _ in told if kind == "hook"]
    places = [[order.index(name) for name, (_, when, _) in HOOKS.items() if when == stage] for stage in stages]
    assert max(places[0]) < min(places[1]) <= max(places[1]) < min(places[2])
    life = [
        "server_started",
        "model_loaded",
        "prepare_request",
        "request_finished",
        "model_unloaded",
        "server_stopping",
    ]
    assert [order.index(name) for name in life] == sorted(order.index(name) for name in life)


def called(protocol: str) -> str:
    return next(part for part in PROTOCOLS[protocol] if part.startswith("called"))


SEEN = (
    "Sampler",
    "SamplerPlugin",
    "Grammar",
    "GrammarCompiler",
    "Tokenizer",
    "ChatFormat",
    "ToolParser",
    "ToolParserPlugin",
    "Quant",
    "Architecture",
    "Backend",
    "Authenticator",
)


@pytest.mark.parametrize("protocol", SEEN)
def test_a_protocol_is_called_where_the_page_says(told: list[list[str]], protocol: str) -> None:
    found = {where for kind, what, where in told if kind == "call" and what.startswith(f"{protocol}.")}
    assert found, "the spy saw no call"
    stated = called(protocol)
    assert "any thread" in stated or found == {where for where in THREADS if where in stated}


THREADS = ("main thread", "loading thread", "engine thread", "worker thread", "event loop")


def test_every_protocol_that_is_called_says_where() -> None:
    assert set(PROTOCOLS) == {*SEEN, "Engine"}
    assert called("Engine").endswith("on the event loop")  # examples/llamafw-remote is one
