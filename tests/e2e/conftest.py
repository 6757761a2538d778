"""Fixtures: a server with the default model, shared by all tests, and clients of it.

Tests with the mark ``every_backend`` run twice: with the default backend, and with the one for ONNX Runtime. With
``LLAMAFW_BACKEND=onnx`` in the environment all tests run with the latter, except those with the mark ``exact``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from llamafw.testing.process import ServerProcess, running_server


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need exact logits, or slots that share memory, if the backend has neither."""
    if os.environ.get("LLAMAFW_BACKEND") == "onnx":
        left_out = [item for item in items if item.get_closest_marker("exact")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("every_backend"):
        metafunc.parametrize("server", [None, "onnx"], ids=["numba", "onnx"], indirect=True)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, real_model: Path) -> Iterator[ServerProcess]:
    backend: str | None = getattr(request, "param", None)
    flags = [] if backend is None else ["--backend", backend, "--onnx-provider", "cpu"]
    with running_server(real_model, "-np", "8", "-c", "8192", "--slots", "--validate-responses", *flags) as running:
        yield running


@pytest.fixture
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture
def openai(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
