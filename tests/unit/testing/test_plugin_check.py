"""``llamafw plugin check``: verdicts, by name, by file, by folder; what is broken is named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llamafw.cli.main import main
from llamafw.cli.new import distribution
from llamafw.testing import plugin_check

BROKEN = '''
import json
import numpy as np
from llamafw import Batch, RequestError, hookimpl


class Sampler:
    """It brings back what is forbidden."""

    options = {"careless": {"type": "boolean", "default": True, "description": "Be it."}}
    truncates = False

    @classmethod
    def create(cls, options, context):
        return cls() if options["careless"] else None

    def apply(self, candidates):
        candidates.logits = np.nan_to_num(candidates.logits, neginf=-30.0, posinf=0.0).clip(-1e4, 1e4)

    def accept(self, token):
        pass


class Quant:
    """It takes any bytes."""

    name, type_id, block_size, type_size = "CARELESS", 0x777777, 4, 4

    def dequantize(self, data, shape):
        return np.resize(data.astype(np.float32), tuple(shape))


class Backend:
    """It computes something else, and keeps nothing."""

    def __init__(self, context):
        options, decoder = context.options, context.decoder
        self.n_slots, self.n_batch, self.n_vocab = options.n_slots, options.n_batch, decoder.n_vocab
        self.n_ctx, self.n_embd = options.n_ctx or decoder.n_ctx_train, decoder.n_embd
        self.state_format = "x-1"

    def forward(self, batch):
        return np.repeat(len(batch.tokens) + np.arange(self.n_vocab, dtype=np.float32)[None], len(batch.outputs), 0)

    def hidden(self, batch):
        return np.zeros((len(batch.outputs), self.n_embd), np.float32)

    def truncate(self, slot, n): pass
    def shift(self, slot, first, n): pass
    def state_size(self, n): return 0
    def save(self, slot, n): return np.zeros(0, np.uint8)
    def restore(self, slot, n, state): pass
    def describe(self): return {"n_threads": 1}
    def close(self): pass


class ChatFormat:
    """It shouts, and knows one message."""

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


def run(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llamafw", "plugin", "check", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_each_broken_promise_is_named(tmp_path: Path) -> None:
    (tmp_path / "careless.py").write_text(BROKEN, "utf-8")
    done = run("careless.py", folder=tmp_path)
    assert done.returncode == 1, done.stderr
    for sentence in (
        r"what is forbidden stays forbidden: with .*: \d+ forbidden tokens came back",
        "bytes that are no such tensor are refused: 7 bytes for shape .2, 4. are accepted",
        "logits are those of float64: F32: up to .* away from float64",
        "any cut of a prompt gives the same: the prompt in pieces of",
        "a foreign state is refused and changes nothing: DID NOT RAISE",
        "messages are in the prompt in order: a question: 'How are you[?]' is not in the prompt",
        "its operations are described: POST /careless has no summary",
        "as the document says: POST /careless: .*Server error.*; reproduce with curl",
        "integers have bounds: POST /careless: responses.200.content.application/json.schema is an integer without",
        "not checked: there is no `reference` to compare with",
    ):
        assert re.search(sentence, done.stdout), f"{sentence}\n{done.stdout}"
    lines = re.findall(r"^  (\S.{10}) (\w+(?: \w+)?)", done.stdout, re.M)
    verdicts = {f"{verdict.strip()} {what}" for verdict, what in lines}
    assert verdicts == {
        "ok plugin",
        "FAILED sampler careless",
        "FAILED chat_format careless",
        "not checked grammar careless",
        "FAILED quant CARELESS",
        "FAILED backend careless",
        "FAILED endpoint",
    }
    assert "checking backend careless …" in done.stderr


def test_a_plugin_without_fault(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(distribution("sampler", "mine")["llamafw_mine.py"], "utf-8")
    done = run("mine.py", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"ok +plugin \(4 kept\)\n  ok +sampler mine \(8 kept\)$", done.stdout.strip())


def test_one_of_ours_by_name(tmp_path: Path) -> None:
    done = run("llamafw:tool_parsers", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^  ok +tool_parser (mistral|llama3|hermes) \(8 kept\)$", done.stdout, re.M)) == 3


def test_a_project_and_its_own_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own suite counts, not one that knows less; and its other tests are told, too."""
    for place, text in distribution("tokenizer", "mine").items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text, "utf-8")
    info = tmp_path / "llamafw_mine-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llamafw-mine\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[llamafw]\nmine = llamafw_mine\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run(folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^  (\w+) +(.*)$", done.stdout, re.M) == [
        ("ok", "plugin (4 kept)"),
        ("ok", "tokenizer mine (10 kept)"),
        ("ok", "its own tests (1 kept)"),
    ]
    own = tmp_path / "tests/test_mine.py"
    own.write_text(own.read_text("utf-8").replace("[0xC3, 0xA9, 256]", "[1]"), "utf-8")
    (tmp_path / "tests/test_more.py").write_text("import nothing_of_that_name\n")
    done = run(folder=tmp_path)
    assert done.returncode == 1
    assert "FAILED      its own tests" in done.stdout
    assert "ModuleNotFoundError: No module named 'nothing_of_that_name'" in done.stdout


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("llamafw-nothing", "llamafw-nothing is no plugin; there are llamafw"),
        ("none.py", "there is no file"),
        ("empty", "empty has no pyproject.toml"),
        ("project", "llamafw-nobody is not installed: pip install -e 'project[test]'"),
        ("odd", "pyproject.toml names no project"),
        ("wrong.py", "cannot be loaded: it implements 'register_smaplers', which is no hook"),
    ],
)
def test_what_cannot_be_checked(
    word: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "project", "odd"):
        (tmp_path / name).mkdir()
    (tmp_path / "project/pyproject.toml").write_text('[project]\nname = "llamafw-nobody"\n')
    (tmp_path / "odd/pyproject.toml").write_text("[tool.x]\n")
    (tmp_path / "wrong.py").write_text("from llamafw import hookimpl\n@hookimpl\ndef register_smaplers(): pass\n")
    assert main(["plugin", "check", word]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_without_pytest_a_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plugin_check, "find_spec", lambda name: None if name == "pytest" else object())
    assert main(["plugin", "check", "llamafw"]) == 1
    assert capsys.readouterr().err == "llamafw: plugin check needs pytest: pip install 'llamafw[test]'\n"
