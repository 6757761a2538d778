"""Fixtures that serve the small API of `support.api` in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from llamafw.plugins import Plugins
from support.api import BUILT_IN_APIS
from support.api_client import OpenClient, client_opener


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    return Plugins(extra=["support.api"], block=BUILT_IN_APIS)


@pytest.fixture
def opened(plugins: Plugins) -> OpenClient:
    return client_opener(plugins)


@pytest.fixture
async def client(opened: OpenClient) -> AsyncIterator[httpx.AsyncClient]:
    async with opened() as http:
        yield http
