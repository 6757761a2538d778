"""The pages that are written from the marks of the tests agree with these marks."""

from __future__ import annotations

import pytest

from support.marked_pages import PageWriter


def test_pages_are_current(request: pytest.FixtureRequest) -> None:
    writers = [plugin for plugin in request.config.pluginmanager.get_plugins() if isinstance(plugin, PageWriter)]
    assert writers
    if not all(writer.complete for writer in writers):
        pytest.skip("needs a run of the whole suite")
    outdated = [writer.page.path.name for writer in writers if not writer.is_current()]
    assert not outdated, f"{outdated} in docs/ are out of date: run `make compatibility`"
