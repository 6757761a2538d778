"""Samples of the page at /docs, run against a server with a tiny model and a key."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamafw.testing.process import ServerProcess, running_server
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_plugins.api_page.fields import Fields
from llamafw_plugins.api_page.operations import BASE_URL, SAMPLE_KEY, groups_of

pytestmark = pytest.mark.slow

KEY = "it's secret"
LANGUAGES = {"curl": "curl", "Python": sys.executable, "JavaScript": "node"}
"""Each language, and the program that its samples need."""

CASES = [
    ("getHealth", "example"),
    ("listModels", "example"),
    ("getMetrics", "example"),
    ("tokenize", "pieces"),
    ("applyTemplate", "plain"),
    ("createCompletion", "plain"),
    ("createCompletion", "stream"),
    ("createCompletion", "several"),
    ("createTextCompletion", "stream"),
    ("createChatCompletion", "plain"),
    ("createChatCompletion", "stream"),
    ("createOllamaChat", "stream"),
    ("createMessage", "text"),
    ("deleteOllamaModel", "example"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    template = Path(__file__).parents[1] / "support/chat_templates/qwen3.jinja"
    model = write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", chat_template=template.read_text("utf-8"))
    with running_server(model, "--api-key", KEY, "--metrics") as running:
        yield running


@pytest.fixture(scope="module")
def samples(server: ServerProcess) -> dict[tuple[str, str], dict[str, str]]:
    """The samples of each operation's examples, with the server's address and key."""
    document = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    return {
        (operation.id, example.name): {
            language: code.replace(BASE_URL, server.url) for language, code in example.samples.items()
        }
        for group in groups_of(document, Fields(document), with_key=True)
        for operation in group.operations
        for example in operation.examples
    }


def output_of(language: str, code: str, folder: Path) -> str:
    """Run a sample; return what it prints."""
    if language == "curl":
        code = code.replace(SAMPLE_KEY, KEY.replace("'", "'\\''")).replace("curl ", "curl --silent --noproxy '*' ", 1)
        command = ["sh", "-c", code]
    else:
        file = folder / ("sample.py" if language == "Python" else "sample.mjs")
        prelude = (
            ""
            if language == "Python"
            else "console.log = (x) => process.stdout.write(x.trim ? x : JSON.stringify(x));\n"
        )
        file.write_text(prelude + code.replace(SAMPLE_KEY, KEY), "utf-8")
        command = [LANGUAGES[language], str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def read(output: str) -> list[Any]:
    """Return the values that a sample has printed: events, lines of JSON, one JSON value, or lines of text."""
    lines = [re.sub(r"^data: ", "", line) for line in output.splitlines() if line.strip(": ")]
    lines = [line for line in lines if not line.startswith("event: ")]
    try:
        return [ast.literal_eval(output)]  # Python prints JSON as its own literals
    except (ValueError, SyntaxError):
        return [json.loads(line) if line.startswith(("{", "[{")) else line for line in lines]


def shape(value: Any) -> Any:
    """Return a value with types instead of numbers and texts, which differ between two responses."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    if isinstance(value, str) and value.startswith("# "):
        return value  # a comment of the metrics
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


@pytest.mark.parametrize(
    ("operation", "example"), CASES, ids=[f"{operation}-{example}" for operation, example in CASES]
)
def test_samples_print_the_response(
    server: ServerProcess,
    samples: dict[tuple[str, str], dict[str, str]],
    operation: str,
    example: str,
    tmp_path: Path,
) -> None:
    languages = [language for language, program in LANGUAGES.items() if shutil.which(program)]
    outputs = {
        language: read(output_of(language, samples[operation, example][language], tmp_path)) for language in languages
    }
    python = outputs["Python"]
    assert python
    if example == "stream":
        assert len(python) > 2
    errors = [value for value in python if isinstance(value, dict) and "error" in value]
    assert bool(errors) is (operation == "deleteOllamaModel")
    for output in outputs.values():
        assert shape(output[0]) == shape(python[0])
        assert shape(output[-1]) == shape(python[-1])
