"""Tests that hooks and protocols are called when, how often and on which thread docs/hooks.md and protocols.md say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from checkpoints import all_checkpoints
from checkpoints.folders import write_folder
from llamafw import hookspecs
from llamafw.testing.process import running_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
N_GENERATIONS = 3
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def stated_calls(page: str, heading: str) -> dict[str, list[str]]:
    """Return the parts of the line below each heading: which plugins are called, when, and on which thread."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return {name: line.split(" · ") for name, line in re.findall(rf"^## {heading}\n\*(.+)\*$", text, re.M)}


HOOKS = stated_calls("docs/hooks.md", r"(\w+)\(.*\)")
PROTOCOLS = stated_calls("docs/protocols.md", r"(\w+)")
SPECS = {name: hook for name, hook in vars(hookspecs).items() if hasattr(hook, f"{hookspecs.NAME}_spec")}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The kind, the name and the thread of all calls that a spying plugin has recorded, in order."""
    llama = next(one for one in all_checkpoints() if one.name == "llama")
    model = write_folder(llama, tmp_path_factory.mktemp("spy") / "tiny")  # not a GGUF file, which has its tokenizer
    plugins = ["--plugin", "llamafw.testing.backend", "--plugin", "support.spy"]
    flags = [*plugins, "-np", "2", "-c", "2048", "--check-tensors", "--spec-type", "ngram-simple"]
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
        lines = [line.strip().split(" ", 2) for line in server.output if line.startswith("SPY ")]
    return [[kind, *rest.split(" · ")] for _, kind, rest in lines]


def test_hooks_page_says_which_plugins_are_called() -> None:
    assert set(HOOKS) == set(SPECS)
    for name, (called, *_) in HOOKS.items():
        first = getattr(SPECS[name], f"{hookspecs.NAME}_spec")["firstresult"]
        assert called == ("First" if first else "All"), name


@pytest.mark.parametrize("name", SPECS)
def test_hooks_are_called_as_the_page_says(calls: list[list[str]], name: str) -> None:
    _, when, thread = HOOKS[name]
    threads = [where for kind, hook, where in calls if (kind, hook) == ("hook", name)]
    n_calls = N_GENERATIONS if when == "once per generation" else 1  # there was one failure and one model
    assert threads == [thread] * n_calls
    assert when.startswith("once")


def test_hooks_are_called_in_the_order_of_the_page(calls: list[list[str]]) -> None:
    """Registration comes first, then flags, then the server, then the model."""
    stages = ["once, at start-up", "once, before flags are parsed", "once, while the server is built"]
    order = [name for kind, name, _ in calls if kind == "hook"]
    places = [[order.index(name) for name, (_, when, _) in HOOKS.items() if when == stage] for stage in stages]
    assert max(places[0]) < min(places[1]) <= max(places[1]) < min(places[2])

    events = [
        "server_started",
        "model_loaded",
        "prepare_request",
        "request_finished",
        "model_unloaded",
        "server_stopping",
    ]
    assert [order.index(name) for name in events] == sorted(order.index(name) for name in events)


def called(protocol: str) -> str:
    """Return the part of the page's line that says when and where a protocol is called."""
    return next(part for part in PROTOCOLS[protocol] if part.startswith("called"))


SPIED_PROTOCOLS = (
    "Sampler",
    "SamplerPlugin",
    "Grammar",
    "GrammarCompiler",
    "Drafter",
    "Tokenizer",
    "ChatFormat",
    "ToolParser",
    "ToolParserPlugin",
    "Quant",
    "Architecture",
    "Backend",
    "Authenticator",
)


@pytest.mark.parametrize("protocol", SPIED_PROTOCOLS)
def test_protocols_are_called_on_the_stated_threads(calls: list[list[str]], protocol: str) -> None:
    threads = {where for kind, name, where in calls if kind == "call" and name.startswith(f"{protocol}.")}
    assert threads, f"no call of {protocol} was recorded"
    stated = called(protocol)
    assert "any thread" in stated or threads == {thread for thread in THREADS if thread in stated}


THREADS = ("main thread", "loading thread", "engine thread", "worker thread", "event loop")


def test_protocols_page_states_threads_for_all_protocols() -> None:
    assert set(PROTOCOLS) == {*SPIED_PROTOCOLS, "Engine"}
    assert called("Engine").endswith("on the event loop")  # see examples/llamafw-remote
