"""Samples in curl, Python and JavaScript send exactly the requests that they show."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llamafw import Settings
from llamafw.plugins import Plugins
from llamafw.spec import merged_document, operation_ids
from llamafw_plugins.api_page.fields import Fields
from llamafw_plugins.api_page.operations import BASE_URL, SAMPLE_KEY, Example, groups_of
from llamafw_plugins.api_page.samples import LANGUAGES, SampleRequest, curl, javascript, python

DOCUMENT = merged_document(Plugins(), Settings())
GROUPS = groups_of(DOCUMENT, Fields(DOCUMENT), with_key=True)
EXAMPLES = {
    f"{operation.id}-{example.name}": example
    for group in GROUPS
    for operation in group.operations
    for example in operation.examples
}

STRINGS = 'it\'s "quoted" \\ $HOME `id` %s\n\t\u2028 é 😀 </script> {x} !'
HARD = SampleRequest(
    "POST",
    f"{BASE_URL}/a%20b?x=1&y=%5B%5D",
    {"text": STRINGS, "not an identifier": [None, True, False, -1.5e300, 2**53 - 1], "": [], "deep": [{"a": {}}] * 9},
    key="a'b$c",
)
CASES = {
    **{name: example.request for name, example in EXAMPLES.items()},
    "hard": HARD,
    "text": replace(HARD, body="'", answer="text"),
    "put": replace(HARD, method="PUT", answer="lines"),
}

Received = list[tuple[str, str, Any, str | None]]


class Recorder:
    """A server that remembers the method, path, body and key of each request."""

    def __init__(self) -> None:
        self.received: Received = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline()
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                key = self.headers.get("authorization")
                recorder.received.append((self.command, self.path, json.loads(body) if body else "no body", key))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'{"received": true}')

            def log_message(self, *args: Any) -> None:
                """Write nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    recorder.thread.start()
    yield recorder
    recorder.server.shutdown()
    recorder.server.server_close()
    recorder.thread.join()


@pytest.fixture
def received(recorder: Recorder) -> Received:
    recorder.received.clear()
    return recorder.received


def expected(request: SampleRequest) -> tuple[str, str, Any, str | None]:
    """Return what the recorder must receive."""
    body = "no body" if request.body is None else request.body
    key = None if request.key is None else f"Bearer {request.key}"
    return request.method, request.url.removeprefix(BASE_URL), body, key


def test_every_operation_has_a_sample_in_each_language() -> None:
    shown = {operation.id: operation for group in GROUPS for operation in group.operations}
    paths = {path for operation in shown.values() for path in (operation.path, *operation.aliases)}
    assert paths == DOCUMENT["paths"].keys()
    assert len(shown) < len(operation_ids(DOCUMENT))  # aliases are shown once
    for operation in shown.values():
        assert operation.examples
        for example in operation.examples:
            assert list(example.samples) == ["curl", "Python", "JavaScript"] == list(LANGUAGES)
            assert all((SAMPLE_KEY in code) is not operation.is_public for code in example.samples.values())


def test_samples_show_the_examples_of_the_document() -> None:
    body = DOCUMENT["paths"]["/tokenize"]["post"]["requestBody"]["content"]["application/json"]
    assert body["examples"]
    for name, example in body["examples"].items():
        assert EXAMPLES[f"tokenize-{name}"].request.body == example["value"]
        assert json.loads(EXAMPLES[f"tokenize-{name}"].body or "") == example["value"]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("createCompletion-plain", "json"),
        ("createCompletion-stream", "events"),
        ("createOllamaChat-text", "json"),
        ("createOllamaChat-stream", "lines"),
        ("readStream-example", "events"),
        ("getMetrics-example", "text"),
    ],
)
def test_kind_of_the_response_is_known(name: str, answer: str) -> None:
    assert EXAMPLES[name].request.answer == answer


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("name", CASES)
def test_curl_sends_the_request(name: str, recorder: Recorder, received: Received) -> None:
    code = curl(replace(CASES[name], url=CASES[name].url.replace(BASE_URL, recorder.url)))
    command = ["sh", "-c", code.replace("curl ", "curl --silent --show-error --noproxy '*' ", 1)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert received == [expected(CASES[name])]
    assert done.stdout == '{"received": true}'


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_python_sends_the_request(
    name: str, recorder: Recorder, received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(python(CASES[name]).replace(BASE_URL, recorder.url), {})
    assert received == [expected(CASES[name])]
    shown = "" if CASES[name].answer == "events" else "received"  # the recorder sends no events
    assert shown in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_javascript_sends_the_requests(recorder: Recorder, received: Received, tmp_path: Path) -> None:
    """All samples run in one process, because Node starts slowly."""
    for number, request in enumerate(CASES.values()):
        (tmp_path / f"{number}.mjs").write_text(javascript(request).replace(BASE_URL, recorder.url), "utf-8")
    (tmp_path / "main.mjs").write_text("".join(f'await import("./{number}.mjs");\n' for number in range(len(CASES))))
    done = subprocess.run(["node", "main.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert received == [expected(request) for request in CASES.values()]
    assert done.stdout.count("received") == len(CASES)


def test_long_bodies_are_written_on_several_lines() -> None:
    request = SampleRequest("POST", f"{BASE_URL}/x", {"messages": [{"role": "user", "content": "a" * 60}] * 2})
    for write in LANGUAGES.values():
        lines = write(request).splitlines()
        assert max(map(len, lines)) < 100
        assert len(lines) > 6


def example_of(operation_id: str) -> Example:
    """Return the first example of an operation."""
    return next(example for name, example in EXAMPLES.items() if name.startswith(f"{operation_id}-"))


def test_urls_have_required_parameters_only() -> None:
    assert example_of("changeSlot").request.url == f"{BASE_URL}/slots/0?action=save"
    assert example_of("getModel").request.url == f"{BASE_URL}/v1/models/smollm2-135m"
    assert example_of("listResponseInput").request.url == f"{BASE_URL}/v1/responses/RESPONSE_ID/input_items"
