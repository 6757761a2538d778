"""``llamafw plugin check``: run the suites that a plugin is due for, and its own tests, and say how each went."""

from __future__ import annotations

import contextlib
import io
import sys
import tomllib
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llamafw.cli.parser import Parser
from llamafw.errors import PluginError, SettingsError
from llamafw.plugins import Plugins

if TYPE_CHECKING:
    import pytest

NEEDS = ("pytest", "pytest_asyncio", "httpx", "schemathesis")
MODULE = """
from llamafw.testing.conformance.suites import suites

globals().update(suites({names!r}, {plugins!r}))
"""
OWN = "its own tests"
WHOLE = ("plugin", "authenticator", "endpoint", "weights")  # kinds of which a plugin has one

Key = tuple[str, str]
"""Kind and name of a thing that is tested; `OWN` for a plugin's other tests."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be checked."""

    names: tuple[str, ...]  # distributions, or plugins as ``llamafw plugins`` lists them
    plugins: tuple[str, ...] = ()  # to load besides those installed
    folder: Path | None = None  # a project, whose tests are run, too


@dataclass(slots=True)
class Outcome:
    """How the tests of one thing went."""

    passed: int = 0
    skipped: dict[str, None] = field(default_factory=dict)  # reasons, each once
    failed: list[str] = field(default_factory=list)


def run(argv: list[str]) -> int:
    """Check and print; exit code 1 if a promise is broken."""
    parser = Parser(
        "llamafw plugin check",
        "Hold a plugin to what all plugins of its kinds promise, and run its own tests.",
    )
    text = "an installed package or plugin, a .py file, or the folder of a project (default: the current one)"
    parser.add_argument("target", metavar="NAME|PATH", nargs="?", default=".", help=text)
    given = parser.parse(argv)
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise SettingsError(f"plugin check needs {', '.join(missing)}: pip install 'llamafw[test]'")
    target = find(given.target)
    outcomes = test(target)
    print(f"{', '.join(target.names)}\n{report(outcomes)}")
    return 1 if any(outcome.failed for outcome in outcomes.values()) else 0


def find(text: str) -> Target:
    """Return what a user means; SettingsError if it is no plugin that can be loaded."""
    path = Path(text)
    if text.endswith(".py"):
        target = Target((str(path.resolve()),), (str(path.resolve()),))
    elif path.is_dir() and (path / "pyproject.toml").is_file():
        target = Target((_project(path),), folder=path.resolve())
    elif path.is_dir():
        raise SettingsError(f"plugin check: {text} has no pyproject.toml")
    else:
        target = Target((text,))
    plugins = Plugins(extra=target.plugins, tolerant=True)
    found = [one for one in plugins.records.values() if {one.name, one.distribution} & set(target.names)]
    if not found:
        named = {one.distribution for one in plugins.records.values()}
        raise SettingsError(f"plugin check: {text} is no plugin; there are {', '.join(sorted(named))}")
    for one in found:
        if one.error:
            raise PluginError(one.error)
    return target


def test(target: Target) -> dict[Key, Outcome]:
    """Run all tests; return how they went, by what they were about."""
    import pytest

    verdict = Verdict()
    with TemporaryDirectory() as folder:
        module = Path(folder) / "test_conformance.py"
        module.write_text(MODULE.format(names=target.names, plugins=target.plugins), "utf-8")
        config = Path(folder) / "pytest.ini"
        config.write_text("[pytest]\n", "utf-8")
        root = target.folder or Path(folder)
        if target.folder:
            config = target.folder / "pyproject.toml"
        options = [
            "-c",
            str(config),
            "--rootdir",
            str(root),
            "-p",
            "no:cacheprovider",
            "--import-mode=importlib",
            "-o",
            "asyncio_mode=auto",
            "-o",
            "asyncio_default_fixture_loop_scope=function",
        ]
        paths = [str(module)]
        if target.folder and (target.folder / "tests").is_dir():
            paths.append(str(target.folder / "tests"))
        written = io.StringIO()
        with contextlib.redirect_stdout(written):
            code = pytest.main([*options, *paths], plugins=[verdict])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
        raise SettingsError(f"plugin check: pytest ended with {code!r}:\n{written.getvalue()}")
    return verdict.outcomes


class Verdict:
    """A plugin of pytest's that keeps the outcomes, and says on stderr what is being tested."""

    def __init__(self) -> None:
        self.outcomes: dict[Key, Outcome] = {}
        self._keys: dict[str, Key] = {}  # by pytest's id of a test

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what the plugin's own tests hold to the same suite, with more knowledge of it."""
        own = {key(item) for item in items if _is_own(item)}
        kept = [item for item in items if _is_own(item) or key(item) not in own]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
        self._keys = {item.nodeid: key(item) for item in items}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what cannot even be imported."""
        if report.failed:
            self._outcome((OWN, "")).failed.append(f"{report.nodeid}: {_last_line(report.longreprtext)}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test went."""
        outcome = self._outcome(self._keys[report.nodeid])
        if report.failed:
            outcome.failed.append(f"{_title(report.nodeid)}: {_message(report)}")
        elif report.skipped:
            outcome.skipped[_reason(report)] = None
        elif report.when == "call":
            outcome.passed += 1

    def _outcome(self, of: Key) -> Outcome:
        if of not in self.outcomes:
            print(f"checking {' '.join(of).strip()} …", file=sys.stderr)
        return self.outcomes.setdefault(of, Outcome())


def key(item: pytest.Item) -> Key:
    """Return what a test is about."""
    from llamafw.testing.conformance.base import Conformance

    cls = getattr(item, "cls", None)
    return (cls.kind, cls.name) if cls is not None and issubclass(cls, Conformance) else (OWN, "")


def report(outcomes: dict[Key, Outcome]) -> str:
    """Return the verdict, a line for each thing and one for each promise that is broken."""
    lines = []
    for (kind, name), outcome in outcomes.items():
        what = kind if kind in WHOLE else f"{kind} {name}".strip()
        verdict = "FAILED" if outcome.failed else "ok" if outcome.passed else "not checked"
        counts = [f"{outcome.passed} kept"] if outcome.passed else []
        counts += [f"{len(outcome.failed)} broken"] if outcome.failed else []
        lines.append(f"  {verdict:11} {what}" + (f" ({', '.join(counts)})" if counts else ""))
        lines += [f"              {line}" for text in outcome.failed for line in text.splitlines()]
        lines += [f"              not checked: {reason}" for reason in outcome.skipped]
    return "\n".join(lines) or "  nothing to check"


def _is_own(item: pytest.Item) -> bool:
    return not getattr(getattr(item, "cls", None), "generated", False)


def _title(nodeid: str) -> str:
    """Return a test's name as a sentence."""
    return nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")


def _message(report: pytest.TestReport) -> str:
    crash: Any = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext
    text = text.removeprefix("AssertionError: ").removeprefix("Failed: ")
    return text.partition("\nassert ")[0].strip()


def _reason(report: pytest.TestReport) -> str:
    longrepr: Any = report.longrepr
    return str(longrepr[2]).removeprefix("Skipped: ") if isinstance(longrepr, tuple) else str(longrepr)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2].removeprefix("E ").strip()


def _project(folder: Path) -> str:
    """Return the name of a project's distribution, which must be installed."""
    try:
        name: str = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"plugin check: {folder / 'pyproject.toml'} names no project: {error!r}") from None
    try:
        return distribution(name).name
    except PackageNotFoundError:
        raise SettingsError(f"plugin check: {name} is not installed: pip install -e '{folder}[test]'") from None
