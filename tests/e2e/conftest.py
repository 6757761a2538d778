"""Fixtures: a server with the default model, shared by all tests, and clients of it.

Tests with the mark ``every_backend`` run twice: with the default backend, and with the one for ONNX Runtime, whose
activations are not rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from llamafw.testing.process import ServerProcess, running_server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("every_backend"):
        metafunc.parametrize("server", [None, "onnx"], ids=["numba", "onnx"], indirect=True)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, real_model: Path) -> Iterator[ServerProcess]:
    backend: str | None = getattr(request, "param", None)
    flags = [] if backend is None else ["--backend", backend, "--onnx-provider", "cpu", "--onnx-activations", "float"]
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
