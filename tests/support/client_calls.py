"""Writes docs/client-calls.md: which calls of which clients the tests make.

A test names a client and its calls: ``@pytest.mark.client("openai", "chat.completions.create")``; see `marked_pages`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from support.marked_pages import ROOT, by_file

PAGE = ROOT / "docs/client-calls.md"
NODE_PACKAGES = ROOT / "tests/clients/package.json"

CLIENTS = {
    "openai": "OpenAI, Python",
    "anthropic": "Anthropic, Python",
    "ollama": "Ollama, Python",
    "node:openai": "OpenAI, Node",
    "node:@anthropic-ai/sdk": "Anthropic, Node",
}
"""Package → name on the page; packages of Node start with ``node:``. Other clients are programs without a package."""

HEAD = """\
# Clients and calls

The tests make each of these calls to a running server with the client itself. Clients without a version are programs
that are represented by the requests that they send. The versions are those of the last update of this page; the tests
run with the newest.

`make compatibility` writes this page from the marks of the tests.

| Client | Version | Call | Tests |
|---|---|---|---|
"""


def read_mark(arguments: tuple[object, ...], test: str) -> Iterator[tuple[str, str]]:
    """Yield the client and each of the calls that a mark names."""
    if len(arguments) < 2 or not all(isinstance(argument, str) for argument in arguments):
        raise pytest.UsageError(f"{test}: the mark `client` needs the name of a client and its calls")
    client, *calls = map(str, arguments)
    yield from ((client, call) for call in calls)


def page(tests: Mapping[tuple[str, str], Collection[str]]) -> str:
    """Return the page; ``tests`` maps pairs of client and call to tests."""
    order = {client: i for i, client in enumerate(CLIENTS)}
    keys = sorted(tests, key=lambda key: (order.get(key[0], len(order)), *key))
    rows = (
        f"| {CLIENTS.get(client, client)} | {client_version(client)} | `{call}` | {by_file(tests[client, call])} |\n"
        for client, call in keys
    )
    return HEAD + "".join(rows)


def client_version(client: str) -> str:
    """Return the version of a client's package; "" if there is none."""
    if client.startswith("node:"):
        packages: Mapping[str, str] = json.loads(Path(NODE_PACKAGES).read_text("utf-8"))["dependencies"]
        return packages[client.removeprefix("node:")]
    try:
        return version(client) if client in CLIENTS else ""
    except PackageNotFoundError:
        return ""


def without_versions(text: str) -> str:
    """Return the page without the column of versions, which change with every update of a client."""
    return re.sub(r"^(\| [^|]+ \|) [^|]* \|", r"\1 |", text, flags=re.MULTILINE)
