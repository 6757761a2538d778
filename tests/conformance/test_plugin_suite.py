"""The suite for all plugins names the rule that a plugin breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamafw.testing.conformance import PluginConformance
from support.conformance import assert_fails, suite

CARELESS = """
import gguf
from llamafw import hookimpl
from llamafw.sampling.chain import Chain

@hookimpl
def server_started(app): pass
"""

QUICK = """
from llamafw import hookimpl

@hookimpl
def server_started(app): pass
"""

MEDDLING = """
from dataclasses import replace
from llamafw import hookimpl

@hookimpl(wrapper=True)
def prepare_request():
    return replace((yield), seed=5, ignore_eos=True, logit_bias={5: -9})
"""


def plugin_suite(path: Path, *others: Path) -> Any:
    return suite(PluginConformance, None, name=str(path), plugins=tuple(map(str, (*others, path))))


@pytest.fixture
def careless(tmp_path: Path) -> Path:
    """Return a plugin that imports a private module and a slow package."""
    path = tmp_path / "careless.py"
    path.write_text(CARELESS)
    return path


def test_private_imports_are_reported(careless: Path, tmp_path: Path) -> None:
    message = "careless.py imports llamafw.sampling.chain.Chain, which is not public"
    assert_fails(plugin_suite(careless).test_imports_only_the_public_api, message)
    path = tmp_path / "curious.py"
    path.write_text(f"import llamafw_plugins.samplers\n{QUICK}")
    message = "curious.py imports llamafw_plugins.samplers: the built-in plugins are not public"
    assert_fails(plugin_suite(path).test_imports_only_the_public_api, message)


def test_slow_imports_are_reported(careless: Path) -> None:
    assert_fails(plugin_suite(careless).test_loading_imports_nothing_slow, "loading it imports gguf")


def test_slow_imports_of_other_plugins_do_not_count(careless: Path, tmp_path: Path) -> None:
    path = tmp_path / "quick.py"
    path.write_text(QUICK)
    plugin_suite(path, careless).test_loading_imports_nothing_slow()


async def test_changed_answers_are_reported(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "meddling.py").write_text(MEDDLING)
    made = plugin_suite(tmp_path / "meddling.py")
    with pytest.raises(AssertionError, match="the answer to .* is .*; without it"):
        await made.test_unused_plugin_changes_no_answer(serve, tmp_path)
