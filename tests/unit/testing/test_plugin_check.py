"""``llamafw plugin check`` finds a plugin, runs the suites and its tests, and reports which rules are broken."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from llamafw.cli.main import main
from llamafw.cli.new import package_files
from llamafw.testing import plugin_check
from llamafw.testing.conformance import EventsConformance

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # each test starts several servers

CARELESS = '''
import json
import numpy as np
from llamafw import Batch, RequestError, hookimpl


class Sampler:
    """It allows forbidden tokens again."""

    options = {"careless": {"type": "boolean", "default": True, "description": "Be careless."}}
    truncates = False

    @classmethod
    def create(cls, options, context):
        return cls() if options["careless"] else None

    def apply(self, candidates):
        candidates.logits = np.nan_to_num(candidates.logits, neginf=-30.0, posinf=0.0).clip(-1e4, 1e4)

    def accept(self, token):
        pass


class Quant:
    """It accepts data of any size."""

    name, type_id, block_size, type_size = "CARELESS", 0x777777, 4, 4

    def dequantize(self, data, shape):
        return np.resize(data.astype(np.float32), tuple(shape))


class Backend:
    """It does not compute the model and keeps no state."""

    state_format = "careless"
    exact, whole_texts, can_cut, can_shift = True, False, True, True

    def __init__(self, context):
        options, graph = context.options, context.graph
        self.n_slots, self.n_batch, self.n_vocab = options.n_slots, options.n_batch, graph.n_vocab
        self.n_ctx, self.n_embd = options.n_ctx or graph.n_ctx_train, graph.n_embd

    def forward(self, batch):
        return np.repeat(len(batch.tokens) + np.arange(self.n_vocab, dtype=np.float32)[None], len(batch.outputs), 0)

    def hidden(self, batch):
        return np.zeros((len(batch.outputs), self.n_embd), np.float32)

    def truncate(self, slot, n): return n
    def shift(self, slot, first, n): pass
    def state_size(self, n): return 0
    def save(self, slot, n): return np.zeros(0, np.uint8)
    def restore(self, slot, n, state): pass
    def describe(self): return {"n_threads": 1}
    def close(self): pass


class ChatFormat:
    """It writes the first message only, in capitals."""

    source = "!"

    def __init__(self, context): pass

    def render(self, messages, *, add_generation_prompt=True, **variables):
        return messages[0]["content"].upper()


@hookimpl
def register_samplers(register): register("careless", Sampler)


@hookimpl
def register_quants(register): register("CARELESS", Quant())


@hookimpl
def register_backends(register): register("careless", Backend)


@hookimpl
def register_chat_formats(register): register("careless", ChatFormat)


@hookimpl
def register_grammars(register): register("careless", lambda context: None)


API = {"paths": {"/careless": {"post": {
    "operationId": "careless",
    "requestBody": {"content": {"application/json": {"schema": {
        "type": "object", "properties": {"n": {"type": "integer", "minimum": -9, "maximum": 9}}}}}},
    "responses": {"200": {"description": "ok", "content": {"application/json": {"schema": {"type": "integer"}}}}},
}}}}


@hookimpl
def extend_openapi(): return API


@hookimpl
def register_endpoints(register, app):
    async def careless(call):
        return 9 // (call.body or {}).get("n", 1)

    register("careless", careless)
'''

EVENTS = """
import threading
from llamafw import hookimpl

@hookimpl
def model_loaded(model, app):
    threading.Event().wait(0.2)

@hookimpl
def request_finished(request, finish):
    print(finish.n_predicted)
"""

WITHOUT_APPLY = """
from llamafw import hookimpl

class Half:
    def accept(self, token): pass

class HalfPlugin:
    options = {"half": {"type": "boolean", "default": True, "description": "Halve the logits."}}
    truncates = False

    @classmethod
    def create(cls, options, context):
        return Half()

@hookimpl
def register_samplers(register): register("half", HalfPlugin)
"""


def check(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llamafw", "plugin", "check", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def verdicts(report: str) -> dict[str, str]:
    """Return the line of each subject in a report: subject → ``"FAILED: 2 rules passed, 1 rule broken"``."""
    lines = re.findall(r"^  (ok|FAILED|skipped) +([^:\n]+)(?:: (.*))?$", report, re.M)
    return {subject: f"{verdict}: {counts}" for verdict, subject, counts in lines}


def test_broken_rules_are_reported_in_words(tmp_path: Path) -> None:
    (tmp_path / "careless.py").write_text(CARELESS, "utf-8")
    result = check("careless.py", folder=tmp_path)
    assert result.returncode == 1, result.stderr

    for pattern in (
        "broken rule: A logit of −inf, which forbids a token, stays −inf, .*\n"
        r" +reason: options .*, candidates .*: \d+ forbidden tokens are allowed again, such as token \d+\n"
        " +test: SamplerConformance.test_forbidden_tokens_stay_forbidden\n",
        r"broken rule: Data that does not fit the shape is a ModelError.\n"
        r" +reason: 7 bytes are accepted for the shape \(2, 4\)\n",
        "reason: F32: logits and those of float64 differ by up to",
        "reason: the prompt in batches of .* and in one: .* numbers differ",
        "reason: a state of 1 bytes for 20 positions is accepted",
        r"reason: a question: 'How are you\?' is not in the prompt",
        "reason: POST /careless has no summary",
        "reason: POST /careless: .*Server error.*; reproduce with `llamafw serve --validate-responses` and curl",
        "reason: POST /careless: responses.200.content.application/json.schema is an integer without minimum",
        "not checked: 1 rule: implement `reference` to compare the weights with its result",
    ):
        assert re.search(pattern, result.stdout), f"{pattern}\n{result.stdout}"

    assert {subject: line.partition(":")[0] for subject, line in verdicts(result.stdout).items()} == {
        "plugin": "ok",
        "sampler careless": "FAILED",
        "chat format careless": "FAILED",
        "grammar careless": "skipped",
        "quant CARELESS": "FAILED",
        "backend careless": "FAILED",
        "recurrent backend careless": "FAILED",
        "endpoint": "FAILED",
    }
    assert re.search(r"^\d+ rules or tests failed\.$", result.stdout, re.M)
    assert "checking backend careless …" in result.stderr


def test_event_and_broken_rule_are_named(tmp_path: Path) -> None:
    (tmp_path / "events.py").write_text(EVENTS, "utf-8")
    result = check("events.py", folder=tmp_path)
    assert result.returncode == 1, result.stderr
    assert verdicts(result.stdout) == {
        "plugin": "ok: 3 rules passed",
        "events": "FAILED: 4 rules passed, 2 rules broken",
    }

    line = EVENTS.splitlines().index("    print(finish.n_predicted)") + 1
    for pattern in (
        "broken rule: request_finished: The hook raises no exception.\n"
        rf" +reason: request_finished raised AttributeError: .* \(events.py:{line}\) when finish was None\n",
        "broken rule: model_loaded: The hook returns within 50 ms, .*\n"
        r" +reason: model_loaded took at least \d+ ms; the limit is 50 ms. Do slow work on a thread\n",
    ):
        assert re.search(pattern, result.stdout), f"{pattern}\n{result.stdout}"


def test_missing_method_is_one_broken_rule(tmp_path: Path) -> None:
    """The other rules cannot be checked, and are not reported as broken."""
    (tmp_path / "half.py").write_text(WITHOUT_APPLY, "utf-8")
    result = check("half.py", folder=tmp_path)
    assert result.returncode == 1, result.stderr
    assert verdicts(result.stdout)["sampler half"] == "FAILED: 1 rule broken"
    assert "broken rule: It has every attribute and method of its protocol.\n" in result.stdout
    assert "reason: the class Half lacks apply() (see llamafw.Sampler); docs/protocols.md" in result.stdout
    assert "llamafw.errors" not in result.stdout  # the error of the server that does not start is one sentence
    assert "not checked: 8 rules: the class Half lacks apply() (see llamafw.Sampler)\n" in result.stdout


def test_exception_is_reported_once_with_a_line_of_the_plugin(tmp_path: Path) -> None:
    apply = "    def apply(self, candidates): dataclasses.asdict(1)  # raises in another file\n"
    source = "import dataclasses\n" + WITHOUT_APPLY.replace("class Half:\n", f"class Half:\n{apply}")
    (tmp_path / "half.py").write_text(source, "utf-8")
    result = check("half.py", folder=tmp_path)
    line = next(number for number, text in enumerate(source.splitlines(), 1) if "asdict" in text)
    reason = f"TypeError: asdict() should be called on dataclass instances (half.py:{line})"
    assert result.stdout.count(f"reason: {reason}\n") == 1, result.stdout


def test_valid_file_is_ok(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(package_files("sampler", "mine")["llamafw_mine.py"], "utf-8")
    result = check("mine.py", folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert verdicts(result.stdout) == {"plugin": "ok: 3 rules passed", "sampler mine": "ok: 9 rules passed"}


def test_installed_plugin_is_found_by_name(tmp_path: Path) -> None:
    result = check("llamafw:tool_parsers", folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("mistral", "llama3", "hermes"):
        assert verdicts(result.stdout)[f"tool parser {name}"] == "ok: 12 rules passed"


def test_file_with_a_class_of_hooks_is_checked(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(package_files("events", "mine")["llamafw_mine.py"], "utf-8")
    result = check("mine.py", folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert verdicts(result.stdout) == {"plugin": "ok: 3 rules passed", "events": "ok: 9 rules passed"}


def test_project_is_checked_with_its_own_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's subclass of a suite replaces the generated one, and its other tests are reported too."""
    for place, text in package_files("tokenizer", "mine").items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text, "utf-8")
    info = tmp_path / "llamafw_mine-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llamafw-mine\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[llamafw]\nmine = llamafw_mine\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    result = check(folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert verdicts(result.stdout) == {
        "plugin": "ok: 3 rules passed",
        "tokenizer mine": "ok: 11 rules passed",
        "its own tests": "ok: 1 test passed",
    }

    own = tmp_path / "tests/test_mine.py"
    own.write_text(own.read_text("utf-8").replace("[0xC3, 0xA9, 256]", "[1]"), "utf-8")
    (tmp_path / "tests/test_more.py").write_text("import nothing_of_that_name\n")
    result = check(folder=tmp_path)
    assert result.returncode == 1
    assert verdicts(result.stdout)["its own tests"].startswith("FAILED")
    assert "reason: ModuleNotFoundError: No module named 'nothing_of_that_name'\n" in result.stdout


def test_tests_added_to_a_suite_are_not_rules() -> None:
    class TestMore(EventsConformance):
        def test_of_the_author(self) -> None: ...

    def subject(name: str) -> tuple[str, str]:
        return plugin_check.subject_of(
            cast(pytest.Item, SimpleNamespace(cls=TestMore, function=getattr(TestMore, name)))
        )

    assert subject("test_event_is_quick") == ("events", "")
    assert subject("test_of_the_author") == ("its own tests", "")


@pytest.mark.parametrize(
    ("word", "code", "message"),
    [
        ("llamafw-nothing", 2, "llamafw-nothing is not a plugin; installed plugins: llamafw"),
        ("none.py", 1, "none.py"),
        ("empty", 2, "the folder empty has no pyproject.toml"),
        ("project", 1, "llamafw-nobody is not installed: pip install -e 'project'"),
        ("odd", 2, "pyproject.toml has no project name"),
        ("wrong.py", 1, "it implements 'register_smaplers', which is not a hook"),
    ],
)
def test_invalid_target_is_one_line(
    word: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "project", "odd"):
        (tmp_path / name).mkdir()
    (tmp_path / "project/pyproject.toml").write_text('[project]\nname = "llamafw-nobody"\n')
    (tmp_path / "odd/pyproject.toml").write_text("[tool.x]\n")
    (tmp_path / "wrong.py").write_text("from llamafw import hookimpl\n@hookimpl\ndef register_smaplers(): pass\n")
    assert main(["plugin", "check", word]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    missing = ("pytest", "pytest_asyncio")
    monkeypatch.setattr(plugin_check, "find_spec", lambda name: None if name in missing else object())
    assert main(["plugin", "check", "llamafw"]) == 1
    expected = "llamafw: plugin check needs packages that are not installed: pip install pytest pytest-asyncio\n"
    assert capsys.readouterr().err == expected
