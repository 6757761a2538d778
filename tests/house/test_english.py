"""Tests of the English rules in CONTRIBUTING.md: commit subjects, test names and first lines of docstrings."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES_START = "Format with ruff format and check it in make lint"
"""The subject of the last commit before the rules applied."""

MAX_SUBJECT = 72  # characters
MAX_TEST_NAME = 80  # characters
TEST_NAME = re.compile(r"test_[a-z0-9_]+")
SECOND_SENTENCE = re.compile(r"(?<!e\.g)(?<!i\.e)(?<! vs)[.?!]\)? +(?=[A-Z`\"(])")
SENTENCE_END = re.compile(r"([.?!:…]\)?|https://\S+)$")  # a URL needs no full stop, which could be read as a part of it
AVOIDED_IN_TEST_NAMES = re.compile(r"_(who|whose|whom)(_|$)")


def git(*arguments: str) -> str | None:
    """Return the output of a git command, or None if it fails or there is no git."""
    if shutil.which("git") is None:
        return None
    result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else None


def subjects_since_the_rules() -> list[str]:
    """Return the subjects of all commits to which the rules apply, the newest first."""
    history = git("log", "--no-merges", "--format=%s")
    if history is None:
        pytest.skip("there is no git history, as in an sdist")
    subjects = history.splitlines()
    if RULES_START not in subjects:
        pytest.skip("the git history does not go back far enough, as in a shallow clone")
    return subjects[: subjects.index(RULES_START)]


def files_with_tests() -> list[Path]:
    """Return all files with tests, including those of the examples."""
    return sorted([*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("examples/*/tests/test_*.py")])


def source_files() -> list[Path]:
    """Return all Python files with a docstring."""
    folders = ("framework", "plugins", "backends", "benchmarks", "examples", "docs", "tests")
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    own = [path for path in paths if "node_modules" not in path.parts]
    return [path for path in own if '"""' in path.read_text("utf-8")]


def relative(path: Path) -> str:
    """Return a path relative to the repository, as an id of a test."""
    return path.relative_to(ROOT).as_posix()


def definitions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield all functions and methods of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the name and the docstring of a module and of its classes, functions and methods that have one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring is not None:
                yield getattr(node, "name", "module"), docstring


def problem_of_summary(docstring: str) -> str | None:
    """Return what is wrong with the first paragraph of a docstring, or None."""
    summary, _, rest = docstring.partition("\n")
    if rest and not rest.startswith("\n"):
        return "the first sentence must fit on the first line, with a blank line below it"
    if not SENTENCE_END.search(summary):
        return "the first line must be a sentence that ends with a full stop"
    if SECOND_SENTENCE.search(summary):
        return "the first line must be one sentence; the next ones belong below a blank line"
    return None


def test_commit_subjects_are_short_and_plain() -> None:
    for subject in subjects_since_the_rules():
        assert len(subject) <= MAX_SUBJECT, f"{len(subject)} characters, at most {MAX_SUBJECT}: {subject}"
        assert not subject.endswith("."), f"a subject does not end with a full stop: {subject}"


@pytest.mark.parametrize("path", files_with_tests(), ids=relative)
def test_names_of_tests_follow_the_pattern(path: Path) -> None:
    names = [node.name for node in definitions(ast.parse(path.read_text("utf-8"))) if node.name.startswith("test_")]
    assert names or "Conformance" in path.read_text("utf-8")  # a suite's subclass inherits its tests

    for name in names:
        assert TEST_NAME.fullmatch(name), f"{name}: use lower-case letters, digits and underscores"
        assert len(name) <= MAX_TEST_NAME, f"{name}: {len(name)} characters, at most {MAX_TEST_NAME}"
        assert not AVOIDED_IN_TEST_NAMES.search(name), f"{name}: say it without who, whose and whom"


@pytest.mark.parametrize("path", source_files(), ids=relative)
def test_docstrings_start_with_one_sentence_on_one_line(path: Path) -> None:
    found = [(name, problem_of_summary(text)) for name, text in docstrings(ast.parse(path.read_text("utf-8")))]
    assert found

    problems = [f"{name}: {problem}" for name, problem in found if problem]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("docstring", "valid"),
    [
        ("Return the tokens.", True),
        ("Return the tokens.\n\nParameters\n----------", True),
        ("A chat format: https://example.com/format", True),
        ("Return the tokens", False),
        ("Return the\ntokens.", False),
        ("Return the tokens.\nMore text.", False),
        ("Return the tokens. They are integers.", False),
        ("Return the tokens. `None` stands for all.", False),
        ("Return the tokens (e.g. 5) of llama.cpp, vs. those of version 1.5.", True),
    ],
)
def test_problems_of_summaries_are_found(docstring: str, valid: bool) -> None:
    assert (problem_of_summary(docstring) is None) == valid
