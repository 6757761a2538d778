"""``llamafw contract-test``: servers that follow their API document, servers that do not, and usage errors."""

from __future__ import annotations

import json
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llamafw.cli.main import main
from llamafw.testing import contract

pytestmark = pytest.mark.slow

PLUGIN = """
from llamafw import hookimpl

RESPONSES = {"200": {"description": "ok", "content": {"application/json": {"schema": {"type": "integer", "minimum": 0,
             "maximum": 9}}}}, **{code: {"$ref": f"#/components/responses/{name}"} for code, name in
             {"401": "Unauthorized", "500": "InternalError"}.items()}}


@hookimpl
def extend_openapi():
    return {"paths": {"/lucky": {"get": {"operationId": "lucky", "summary": "A number", "responses": RESPONSES}}}}


@hookimpl
def register_endpoints(register, app):
    async def lucky(call):
        return NUMBER

    register("lucky", lucky)
"""
DOCUMENT = {
    "openapi": "3.0.3",
    "info": {"title": "Another server", "version": "1"},
    "security": [{"bearerAuth": []}],
    "paths": {
        "/n": {
            "get": {
                "operationId": "n",
                "responses": {
                    "401": {"description": "Who are you?"},
                    "200": {
                        "description": "A number",
                        "content": {"application/json": {"schema": {"type": "integer"}}},
                    },
                },
            }
        }
    },
    "components": {"securitySchemes": {"bearerAuth": {"type": "http", "scheme": "bearer"}}},
}


@pytest.fixture
def other_server() -> Iterator[Any]:
    """Return a server other than llamafw; tests can set its answer and its API key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server: Any = self.server
            asked = self.path == "/openapi.json"
            data = json.dumps(DOCUMENT if asked else server.answer).encode()
            allowed = asked or server.key in (None, self.headers.get("Authorization"))
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_TRACE(self) -> None:
            self.send_response(405)
            self.send_header("Allow", "GET")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_POST = do_DELETE = do_PATCH = do_QUERY = do_TRACE

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answer, server.key = 7, None  # type: ignore[attr-defined]  # the handler reads them
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("number", "code"), [("7", 0), ("70", 1)])
def test_operations_of_plugins_are_tested(
    number: str, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lucky.py").write_text(PLUGIN.replace("NUMBER", number), "utf-8")
    plugin = ["--plugin", str(tmp_path / "lucky.py")]
    assert main(["contract-test", "--plugins-only", "--max-examples", "2", *plugin]) == code
    out, err = capfd.readouterr()
    assert "Tested: 1" in out.replace("  ", " ")
    assert ("breaks the API document" in err) is bool(code)


def test_the_started_server_follows_its_document() -> None:
    """Its tiny model and backend provide what every operation needs."""
    paths = ("/completion", "/embedding", "/rerank", "/infill", "/props", "/slots", "/metrics")
    words = [word for path in paths for word in ("--path", path)]
    assert main(["contract-test", "--max-examples", "2", *words]) == 0


@pytest.mark.parametrize(("answer", "code"), [(7, 0), ("seven", 1)])
def test_a_running_server_is_tested(
    answer: Any, code: int, other_server: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    other_server.answer = answer
    url = f"http://127.0.0.1:{other_server.server_port}"
    assert main(["contract-test", "--url", url, "--max-examples", "2", "--path", "/n"]) == code
    found = contract.failures(capfd.readouterr().out)
    assert [line.partition("; reproduce")[0] for line in found] == code * ["GET /n: Response violates schema"]


@pytest.mark.parametrize(
    ("key", "used_key", "code"),
    [(None, None, 0), ("sesame", "sesame", 0), ("sesame", None, 1), ("sesame", "rhubarb", 1), (None, "sesame", 1)],
)
def test_the_api_key_is_used_and_a_wrong_key_is_a_failure(
    key: str | None, used_key: str | None, code: int, other_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLAMA_API_KEY", raising=False)
    other_server.key = key and f"Bearer {key}"
    words = ["--url", f"http://127.0.0.1:{other_server.server_port}", "--max-examples", "2"]
    assert main(["contract-test", *words, *(["--api-key", used_key] if used_key else [])]) == code


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--url", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9/openapi.json cannot be read"),
        (["--url", "nonsense"], 1, "nonsense/openapi.json cannot be read"),
        (["--url", "http://127.0.0.1:9", "-np", "2"], 2, "-np "),
        (["--prot", "2"], 2, "unknown flag --prot; did you mean --port?"),
    ],
)
def test_an_impossible_test_is_reported_in_one_line(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["contract-test", *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_unknown_path_is_a_usage_error(other_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{other_server.server_port}"
    assert main(["contract-test", "--url", url, "--path", "/m"]) == 2
    assert f"{url} has no /m" in capsys.readouterr().err


def test_links_to_operations_that_are_not_tested_are_removed() -> None:
    links = {"a": {"operationId": "n"}, "b": {"operationId": "gone"}}
    document = json.loads(json.dumps(DOCUMENT))
    document["paths"]["/n"]["get"]["responses"]["200"]["links"] = links
    document["paths"]["/gone"] = {"get": {"operationId": "gone", "responses": {}}}
    kept = contract._select_paths(document, ["/n"])
    assert list(kept["paths"]) == ["/n"]
    assert list(kept["paths"]["/n"]["get"]["responses"]["200"]["links"]) == ["a"]
    assert len(links) == 2


def test_a_missing_schemathesis_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(contract, "find_spec", lambda name: None)
    assert main(["contract-test"]) == 1
    assert capsys.readouterr().err == (
        "llamafw: contract-test needs a package that is not installed: pip install schemathesis\n"
    )


@pytest.mark.parametrize(("given", "chains"), [(None, 250), (3, 12)])
def test_max_examples_limits_chains_of_links(tmp_path: Path, given: int | None, chains: int) -> None:
    words = contract.command(DOCUMENT, tmp_path, "http://127.0.0.1:9", max_examples=given, seed=5)
    config = tomllib.loads(Path(words[words.index("--config-file") + 1]).read_text("utf-8"))
    assert config["phases"]["stateful"]["generation"]["max-examples"] == chains
    assert ("--max-examples=3" in words) is (given == 3)
    assert "--seed=5" in words
