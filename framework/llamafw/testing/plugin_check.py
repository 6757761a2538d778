"""``llamafw plugin check``: run the conformance suites that apply to a plugin, and its own tests.

`llamafw.testing.conformance` has the rules; this module knows none of them.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from inspect import getdoc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llamafw.cli.parser import CommandParser
from llamafw.errors import PluginError, SettingsError, StartupError
from llamafw.plugins import Plugins, discover

if TYPE_CHECKING:
    import pytest

REQUIRED_PACKAGES = {
    "pytest": "pytest",
    "pytest_asyncio": "pytest-asyncio",
    "httpx": "httpx",
    "schemathesis": "schemathesis",
}
"""Module → name to install."""

GENERATED_MODULE = """
from llamafw.testing.conformance.suites import suites

globals().update(suites({names!r}, {plugins!r}))
"""
OWN_TESTS = "its own tests"
KINDS_WITHOUT_NAMES = ("plugin", "authenticator", "endpoint", "events", "weights")  # one per plugin
INDENT = " " * 10

Subject = tuple[str, str]
"""What a test is about: kind and name of a registered object, or `OWN_TESTS` and an empty name."""


@dataclass(frozen=True, slots=True)
class Target:
    """The plugin to check."""

    names: tuple[str, ...]  # distributions, or plugins as ``llamafw plugins`` lists them
    plugins: tuple[str, ...] = ()  # plugins to load in addition to the installed ones
    project: Path | None = None  # the folder of a project whose own tests are run too


@dataclass(frozen=True, slots=True)
class PluginTest:
    """One test: the rule that it states, and how to find it."""

    subject: Subject
    rule: str  # empty for a plugin's own tests
    name: str


@dataclass(slots=True)
class Results:
    """The results of all tests about one subject."""

    n_passed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)  # reason → number of tests
    failed: dict[str, list[PluginTest]] = field(default_factory=dict)  # message → tests that failed with it

    @property
    def n_failed(self) -> int:
        """Number of failed tests."""
        return sum(map(len, self.failed.values()))


def run(argv: list[str]) -> int:
    """Check a plugin and print the report; return 1 if a rule is broken."""
    parser = CommandParser(
        "llamafw plugin check",
        "Check that a plugin follows the rules for plugins of its kinds, and run its own tests.",
        example="llamafw plugin check ./llamafw-my-sampler\nllamafw plugin check my_sampler.py",
    )
    text = "an installed package or plugin, a .py file, or the folder of a project (default: the current one)"
    parser.add_argument("target", metavar="NAME|PATH", nargs="?", default=".", help=text)
    args = parser.parse(argv)

    if missing := [name for module, name in REQUIRED_PACKAGES.items() if find_spec(module) is None]:
        raise StartupError(f"plugin check needs packages that are not installed: pip install {' '.join(missing)}")

    target = find_target(args.target)
    results = run_tests(target)
    print(f"{', '.join(target.names)}\n\n{format_report(results)}")
    return 1 if any(result.n_failed for result in results.values()) else 0


def find_target(text: str) -> Target:
    """Return the plugin that the user means.

    Raises
    ------
    SettingsError
        There is no such plugin.
    StartupError
        The project is not installed.
    PluginError
        The plugin cannot be loaded.
    """
    path = Path(text)
    if text.endswith(".py"):
        target = Target((str(path.resolve()),), (str(path.resolve()),))
    elif path.is_dir() and (path / "pyproject.toml").is_file():
        target = Target((_project_name(path),), project=path.resolve())
    elif path.is_dir():
        raise SettingsError(f"plugin check: the folder {text} has no pyproject.toml")
    else:
        target = Target((text,))

    records = Plugins(extra=target.plugins, tolerant=True).records.values()
    chosen = [record for record in records if {record.name, record.distribution} & set(target.names)]
    if not chosen:
        known = ", ".join(sorted({record.distribution for record in records}))
        raise SettingsError(f"plugin check: {text} is not a plugin; installed plugins: {known}")
    for record in chosen:
        if record.error:
            raise PluginError(record.error)
    return target


def run_tests(target: Target) -> dict[Subject, Results]:
    """Run all tests of a plugin with pytest; return the results by subject."""
    import pytest

    collector = ResultCollector(_module_names(target))
    with TemporaryDirectory() as folder:
        module = Path(folder) / "test_conformance.py"
        module.write_text(GENERATED_MODULE.format(names=target.names, plugins=target.plugins), "utf-8")
        config = Path(folder) / "pytest.ini"
        config.write_text("[pytest]\n", "utf-8")

        paths = [module]
        if target.project:
            config = target.project / "pyproject.toml"
            if (target.project / "tests").is_dir():
                paths.append(target.project / "tests")

        options = ["-c", str(config), "--rootdir", str(target.project or folder), "-p", "no:cacheprovider"]
        options += ["--import-mode=importlib", "-o", "asyncio_mode=auto"]
        options += ["-o", "asyncio_default_fixture_loop_scope=function"]
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = pytest.main([*options, *map(str, paths)], plugins=[collector])

    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
        raise StartupError(f"plugin check: pytest ended with {code!r}:\n{output.getvalue()}")
    return collector.results


class ResultCollector:
    """A pytest plugin that collects the results, and prints to stderr what is being tested.

    Parameters
    ----------
    modules : collection of str
        Top-level modules of the plugin under test.
    """

    def __init__(self, modules: Collection[str]) -> None:
        self._modules = modules
        self.results: dict[Subject, Results] = {}
        self._tests: dict[str, PluginTest] = {}  # pytest's node id → test

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Drop a generated suite if the plugin's own tests subclass it, because these may have more examples."""
        own = {subject_of(item) for item in items if not _is_generated(item)}
        dropped = [item for item in items if _is_generated(item) and subject_of(item) in own]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]
        self._tests = {item.nodeid: PluginTest(subject_of(item), rule_of(item), _test_name(item)) for item in items}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a test module that cannot be imported."""
        if report.failed:
            self._fail(PluginTest((OWN_TESTS, ""), "", report.nodeid), _last_line(report.longreprtext))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the result of a test."""
        test = self._tests[report.nodeid]
        results = self._results(test.subject)
        if report.failed:
            self._fail(test, failure_message(report, self._modules))
        elif report.skipped:
            reason = skip_reason(report)
            results.skipped[reason] = results.skipped.get(reason, 0) + 1
        elif report.when == "call":
            results.n_passed += 1

    def _fail(self, test: PluginTest, message: str) -> None:
        self._results(test.subject).failed.setdefault(message, []).append(test)

    def _results(self, subject: Subject) -> Results:
        if subject not in self.results:
            print(f"checking {_title(subject)} …", file=sys.stderr)
        return self.results.setdefault(subject, Results())


def subject_of(item: pytest.Item) -> Subject:
    """Return what a test is about; a test that an author has added to a suite is one of the plugin's own."""
    from llamafw.testing.conformance.base import Conformance

    cls = getattr(item, "cls", None)
    if cls is None or not issubclass(cls, Conformance) or not _is_rule(item):
        return OWN_TESTS, ""
    return cls.label or cls.kind, cls.name


def rule_of(item: pytest.Item) -> str:
    """Return the rule that a test of a suite states: the first paragraph of its docstring."""
    if subject_of(item)[0] == OWN_TESTS:
        return ""
    rule = " ".join((getdoc(getattr(item, "function", None)) or "").partition("\n\n")[0].split())
    parameters = getattr(item, "callspec", None)
    return f"{parameters.id}: {rule}" if parameters else rule


def format_report(results: dict[Subject, Results]) -> str:
    """Return the report: for each subject a line with its result, followed by the broken rules."""
    lines = []
    for subject, result in results.items():
        lines += _format_subject(subject, result)
    n_failed = sum(result.n_failed for result in results.values())
    if n_failed:
        lines.append(f"\n{n_failed} {'rule or test' if n_failed == 1 else 'rules or tests'} failed.")
    return "\n".join(lines) or "  There is nothing to check."


def _format_subject(subject: Subject, result: Results) -> list[str]:
    unit = "test" if subject[0] == OWN_TESTS else "rule"
    verdict = "FAILED" if result.n_failed else "ok" if result.n_passed else "skipped"
    counts = [_count(result.n_passed, unit, "passed")] if result.n_passed else []
    counts += [_count(result.n_failed, unit, "failed" if unit == "test" else "broken")] if result.n_failed else []
    lines = [f"  {verdict:7} {_title(subject)}" + (f": {', '.join(counts)}" if counts else "")]

    for message, tests in result.failed.items():
        for test in tests:
            lines += _labelled("broken rule" if test.rule else "failed test", test.rule or test.name)
        lines += _labelled("reason", message)
        if tests[0].rule:
            lines += _labelled("tests" if len(tests) > 1 else "test", "\n".join(test.name for test in tests))
    for reason, n in result.skipped.items():
        lines += _labelled("not checked", f"{_count(n, unit)}: {reason}")
    return lines


def _labelled(label: str, text: str) -> list[str]:
    """Return lines with a label before the first of them."""
    first, *others = text.splitlines() or [""]
    return [f"{INDENT}{label:>11}: {first}", *(f"{INDENT}{'':13}{line}" for line in others)]


def failure_message(report: pytest.TestReport, modules: Collection[str] = ()) -> str:
    """Return why a test failed, with a file and a line if this is an exception other than AssertionError.

    Parameters
    ----------
    report : pytest.TestReport
        The report of a failed test.
    modules : collection of str
        Top-level modules whose lines are the most useful: those of the plugin.
    """
    crash: Any = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return report.longreprtext.strip()
    message: str = crash.message
    if message.startswith("llamafw.errors."):  # these are sentences for users
        return message.partition(": ")[2].partition("; use --no-plugin")[0].strip()
    for prefix in ("AssertionError: ", "Failed: ", "assert "):
        if message.startswith(prefix):
            return message.removeprefix("AssertionError: ").removeprefix("Failed: ").partition("\nassert ")[0].strip()
    return f"{message.strip()} ({_location(report.longrepr, modules)})"


def _location(longrepr: Any, modules: Collection[str]) -> str:
    """Return ``file.py:7``, the last line that ran in one of the modules, or else the line that raised."""
    crash = longrepr.reprcrash
    lines = [(Path(crash.path), crash.lineno)]
    for entry in getattr(longrepr.reprtraceback, "reprentries", ()):
        location = getattr(entry, "reprfileloc", None)
        if location is not None and {*Path(location.path).parts, Path(location.path).stem} & set(modules):
            lines.append((Path(location.path), location.lineno))
    path, number = lines[-1]
    return f"{path.name}:{number}"


def skip_reason(report: pytest.TestReport) -> str:
    """Return why a test was skipped."""
    longrepr: Any = report.longrepr
    return str(longrepr[2]).removeprefix("Skipped: ") if isinstance(longrepr, tuple) else str(longrepr)


def _is_generated(item: pytest.Item) -> bool:
    return bool(getattr(getattr(item, "cls", None), "generated", False))


def _is_rule(item: pytest.Item) -> bool:
    """Return whether a test is part of llamafw's suites; their subclasses may have other tests."""
    return str(getattr(getattr(item, "function", None), "__module__", "")).startswith("llamafw.testing.conformance.")


def _test_name(item: pytest.Item) -> str:
    """Return ``Suite.test`` if the suite is generated, otherwise the name that pytest shows."""
    if not _is_generated(item):
        return item.nodeid
    return f"{item.cls.__mro__[1].__name__}.{item.name}"  # type: ignore[attr-defined]  # it is a method of a class


def _title(subject: Subject) -> str:
    kind, name = subject
    noun = kind.replace("_", " ")
    return noun if kind in KINDS_WITHOUT_NAMES else f"{noun} {name}".strip()


def _count(n: int, noun: str, participle: str = "") -> str:
    return f"{n} {noun}{'' if n == 1 else 's'} {participle}".strip()


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2].removeprefix("E ").strip()


def _module_names(target: Target) -> set[str]:
    """Return the names of the top-level modules of a plugin."""
    files = {Path(name).stem for name in target.plugins}
    installed = [plugin for plugin in discover() if {plugin.name, plugin.distribution} & set(target.names)]
    return files | {plugin.entry.module.partition(".")[0] for plugin in installed}


def _project_name(folder: Path) -> str:
    """Return the name of a project's distribution; StartupError if it is not installed."""
    try:
        name: str = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"plugin check: {folder / 'pyproject.toml'} has no project name: {error!r}") from None
    try:
        return distribution(name).name
    except PackageNotFoundError:
        raise StartupError(f"plugin check: {name} is not installed: pip install -e '{folder}'") from None
