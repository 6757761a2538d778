"""Fixtures for several folders of unit tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from llamafw.plugins import Plugins


@pytest.fixture(scope="session")
def samplers() -> Mapping[str, Any]:
    """The samplers of all installed plugins by name."""
    return Plugins().registry("sampler")
