"""Fixtures: a server with the default model, shared by all tests, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from llamafw.testing.process import ServerProcess, running_server


@pytest.fixture(scope="session")
def server(real_model: Path) -> Iterator[ServerProcess]:
    with running_server(real_model, "-np", "8", "-c", "8192", "--slots", "--validate-responses") as running:
        yield running


@pytest.fixture
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture
def openai(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
