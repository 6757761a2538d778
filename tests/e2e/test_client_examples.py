"""The programs of docs/clients.md print what the API returns.

Each program is run unchanged; the expected text comes from a plain request with httpx.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamafw.testing.process import ServerProcess

PAGE = (Path(__file__).parents[2] / "docs/clients.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8080"
NEEDED = {"sh": ["sh", "curl"], "bash": ["bash", "curl", "jq"], "js": ["node"], "python": [sys.executable]}
FRANCE = "What is the capital of France?"


def programs() -> dict[str, tuple[str, str]]:
    """Return the language and the code of each program, by the name in its first comment."""
    found = {}
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.S | re.M):
        named = re.search(r"^(?:#|//) (\w+\.\w+)$", code, re.M)
        assert named, f"a program without a name:\n{code}"
        found[named[1]] = language, code
    return found


PROGRAMS = programs()


def run(name: str, url: str, folder: Path, lines: Sequence[str] = ()) -> str:
    """Run a program with ``lines`` as its input; return what it prints."""
    language, code = PROGRAMS[name]
    for command in NEEDED[language]:
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed")
    if language == "js" and node_version() < 18:
        pytest.skip("needs Node 18 or newer, which has fetch")

    assert ADDRESS in code
    (folder / name).write_text(code.replace(ADDRESS, url), "utf-8")
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(
        [NEEDED[language][0], name], cwd=folder, input=text, capture_output=True, text=True, timeout=120, check=False
    )
    # the chat program in bash ends when `read` fails at the end of the input
    assert done.returncode == 0, done.stderr
    return done.stdout + (done.stderr if language == "bash" else "")


def node_version() -> int:
    text = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(text.removeprefix("v").partition(".")[0])


def content(http: httpx.Client, **body: Any) -> str:
    """Return the text of a native completion."""
    return str(http.post("/completion", json=body).raise_for_status().json()["content"])


def reply(http: httpx.Client, *messages: str, system: str = "", **body: Any) -> str:
    """Return the answer to a conversation in which user and assistant alternate."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(messages)]
    turns = [{"role": "system", "content": system}, *turns] if system else turns
    answer = http.post("/v1/chat/completions", json={"messages": turns, "temperature": 0, **body}).raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


Check = Callable[[str, httpx.Client], None]


def completion_sh(printed: str, http: httpx.Client) -> None:
    answer = json.loads(printed)
    assert (answer["tokens_predicted"], answer["stop"]) == (32, True)
    assert len(answer["content"]) > 10


def stream_sh(printed: str, http: httpx.Client) -> None:
    *events, done = [event.removeprefix("data: ") for event in printed.split("\n\n") if event.startswith("data: ")]
    assert done == "[DONE]"
    text = "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events)
    assert text == reply(http, FRANCE, system="Be brief.", max_tokens=24)


def completion_mjs(printed: str, http: httpx.Client) -> None:
    assert printed.removesuffix("\n") == content(http, prompt="The capital of France is", n_predict=16, temperature=0)
    assert "Paris" in printed


def chat_py(printed: str, http: httpx.Client) -> None:
    assert printed == reply(http, FRANCE, system="You answer in one sentence.", max_tokens=24) + "\n"
    assert "Paris" in printed


def stream_py(printed: str, http: httpx.Client) -> None:
    *text, usage, end = printed.split("\n")
    assert "\n".join(text) == reply(http, FRANCE, max_tokens=24)
    assert re.fullmatch(r"\d+ tokens", usage)
    assert 0 < int(usage.split()[0]) <= 24
    assert end == ""


def schema_py(printed: str, http: httpx.Client) -> None:
    assert int(printed) <= 99999999


def nearest_py(printed: str, http: httpx.Client) -> None:
    assert printed == "Pandas eat bamboo.\n"


def events_py(printed: str, http: httpx.Client) -> None:
    completion_mjs(printed, http)


def error_py(printed: str, http: httpx.Client) -> None:
    assert printed == "400 temperature\n"


CHECKS: dict[str, Check] = {
    check.__name__.replace("_", "."): check
    for check in (
        completion_sh,
        stream_sh,
        completion_mjs,
        chat_py,
        stream_py,
        schema_py,
        nearest_py,
        events_py,
        error_py,
    )
}
CONVERSATIONS = ("chat.sh", "chat.mjs")


def test_every_program_has_a_check() -> None:
    assert set(PROGRAMS) == {*CHECKS, *CONVERSATIONS}


@pytest.mark.inventory("P-11")
@pytest.mark.parametrize("name", CHECKS)
def test_program_prints_the_api_response(name: str, server: ServerProcess, http: httpx.Client, tmp_path: Path) -> None:
    CHECKS[name](run(name, server.url, tmp_path), http)


@pytest.mark.inventory("P-11")
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_chat_program_remembers_the_conversation(
    name: str, server: ServerProcess, http: httpx.Client, tmp_path: Path
) -> None:
    """The second answer depends on the first one."""
    asked = [FRANCE, "Say that again."]
    first = reply(http, asked[0], max_tokens=48)
    second = reply(http, asked[0], first.rstrip("\n"), asked[1], max_tokens=48)
    printed = run(name, server.url, tmp_path, asked)
    assert first.strip() in printed
    assert second.strip() in printed
    assert second != reply(http, asked[1], max_tokens=48), "the second answer does not depend on the first"


class WaitingServer(BaseHTTPRequestHandler):
    """Answers as a server does whose requests wait: with a comment before each event."""

    def do_POST(self) -> None:  # http.server chooses the name
        self.rfile.read(int(self.headers["Content-Length"]))
        is_chat = self.path == "/v1/chat/completions"
        texts = [
            {"choices": [{"delta": {"content": text}}]} if is_chat else {"content": text} for text in ("Pa", "ris")
        ]
        events = [f"data: {json.dumps(event)}\n\n" for event in texts] + ["data: [DONE]\n\n"] * is_chat
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write("".join(f":\n\n{event}" for event in events).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def waiting_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), WaitingServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", [*CONVERSATIONS, "stream.py", "events.py"])
def test_programs_ignore_comments_between_events(name: str, waiting_url: str, tmp_path: Path) -> None:
    assert "Paris" in run(name, waiting_url, tmp_path, [FRANCE])
