"""The fixture ``site``: a folder of installed distributions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import distributions


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[distributions.Site]:
    folder = distributions.make_site(tmp_path, monkeypatch)
    yield folder
    folder.unload()
