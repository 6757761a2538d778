"""What the tests of several rooms need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from llamafw.plugins import Plugins


@pytest.fixture(scope="session")
def samplers() -> Mapping[str, Any]:
    return Plugins().registry("sampler")
