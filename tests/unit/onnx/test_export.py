"""Exported models compute the same in plain ONNX Runtime, with the example of the documentation too."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from tokenizers import Tokenizer as Library

from checkpoints import all_checkpoints, write
from llamafw import Floats, LlamafwError, SettingsError
from llamafw import graph as g
from llamafw.cli import main
from llamafw.testing.batches import batch
from llamafw_plugins.tokenizers import make_gpt2
from support.numba_backend import make_context
from support.onnx_backend import CPU, open_backend

ROOT = Path(__file__).parents[3]
CHECKPOINTS = {one.name: one for one in all_checkpoints()}
DECODERS = [name for name, one in CHECKPOINTS.items() if one.output == "logits"]
ENCODERS = [name for name, one in CHECKPOINTS.items() if one.output == "hidden"]
N_CTX = 64
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(40)]
OPTIONS: dict[str, Any] = {"n_ctx": N_CTX, "n_slots": 1, "cache_type_k": "f32", "cache_type_v": "f32", "extra": CPU}
PROMPT, N_TOKENS = "The capital of France is", 24


class Exported:
    """An exported model in plain ONNX Runtime, with the states of a text."""

    def __init__(self, folder: Path) -> None:
        self.about = json.loads((folder / "model.json").read_text("utf-8"))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(folder / "model.onnx", options)
        self.states = {one["input"]: np.zeros(one["shape"], one["dtype"]) for one in self.about["states"]}
        self.n_past = 0

    def run(self, tokens: list[int], output: str, types: list[int] | None = None) -> Floats:
        """Return the rows of all tokens, which follow those before."""
        n = len(tokens)
        feeds = {"tokens": np.array(tokens), "positions": self.n_past + np.arange(n), "rows": np.arange(n)}
        feeds["types"] = np.zeros(n, np.int64) if types is None else np.array(types)
        used = {name: feeds[name] for name in self.about["inputs"]}
        names = [output, *(one["output"] for one in self.about["states"])]
        rows, *after = self.session.run(names, used | self.states)
        self.states = dict(zip(self.states, after, strict=True))
        self.n_past += n
        return np.asarray(rows, np.float32)


def export(path: Path, folder: Path, **options: Any) -> Exported:
    from llamafw_backends.onnx.export import export

    context = make_context(path, **OPTIONS | options)
    export(context, make_gpt2(context.model.metadata), folder)
    return Exported(folder)


@pytest.mark.parametrize("name", ENCODERS)
def test_exported_hidden_states_of_encoders_match_float64(name: str, tmp_path: Path) -> None:
    path = write(CHECKPOINTS[name], tmp_path / "model.gguf")
    context = make_context(path, **OPTIONS)
    evaluator = g.Evaluator(context.graph, g.read_weights(context.model, context.quants))
    exported = export(path, tmp_path / "exported")
    assert not exported.states
    for n in (1, len(TOKENS)):
        types, state = [i // 3 % context.graph.n_types for i in range(n)], g.TextState(context.graph, N_CTX)
        (expected,) = evaluator(TOKENS[:n], state, context.graph.hidden, types=types)
        assert np.abs(exported.run(TOKENS[:n], "hidden", types) - expected).max() < 1e-4 * np.abs(expected).max()
        exported.n_past = 0


@pytest.mark.parametrize("name", DECODERS)
def test_exported_logits_match_float64(name: str, tmp_path: Path) -> None:
    """In batches of several sizes, with nothing but the inputs that model.json describes."""
    path = write(CHECKPOINTS[name], tmp_path / "model.gguf")
    context = make_context(path, **OPTIONS)
    evaluator = g.Evaluator(context.graph, g.read_weights(context.model, context.quants))
    assert context.graph.logits is not None
    (expected,) = evaluator(TOKENS, g.TextState(context.graph, N_CTX), context.graph.logits)

    exported = export(path, tmp_path / "exported")
    assert {one.name for one in exported.session.get_inputs()} == {*exported.about["inputs"], *exported.states}
    rows = [exported.run(TOKENS[first:last], "logits") for first, last in ((0, 25), (25, 26), (26, 40))]
    difference = np.abs(np.concatenate(rows) - expected).max()
    assert difference < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0", "Q5_1", "IQ4_NL", "MXFP4"])
def test_embeddings_in_the_model_are_exact(kind: str, write_model: Any, tmp_path: Path) -> None:
    """The logits are those of the backend, which looks rows up in the file."""
    path = write_model(types=kind)
    exported = export(path, tmp_path)
    with open_backend(path, **OPTIONS) as backend:
        expected = backend.forward(batch((0, 0, TOKENS)))
    np.testing.assert_allclose(exported.run(TOKENS, "logits"), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1", "Q6_K"])
def test_embeddings_that_are_also_the_logits_matrix_are_stored_once(
    kind: str, write_model: Any, tmp_path: Path
) -> None:
    """Every tensor of the matrix is read by the lookup of tokens and by a product."""
    path = write_model(types=kind, n_embd=256, n_head=4, n_ff=256)
    exported = export(path, tmp_path / "exported")
    model = onnx.load(tmp_path / "exported/model.onnx", load_external_data=False)
    table = [one.name for one in model.graph.initializer if one.name.startswith("token_embd.weight")]
    assert table
    for name in table:
        readers = [node.op_type for node in model.graph.node if name in node.input]
        assert "Gather" in readers
        assert {"MatMul", "MatMulNBits"}.intersection(readers)

    with open_backend(path, **OPTIONS) as backend:
        expected = backend.forward(batch((0, 0, TOKENS)))
    np.testing.assert_allclose(exported.run(TOKENS, "logits"), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_exported_tensors_are_all_read(tmp_path: Path) -> None:
    path = write(CHECKPOINTS["nemotron_h"], tmp_path / "model.gguf")
    export(path, tmp_path / "exported")
    model = onnx.load(tmp_path / "exported/model.onnx", load_external_data=False)
    read = {name for node in model.graph.node for name in node.input}
    assert {one.name for one in model.graph.initializer} <= read


def test_inputs_that_cannot_be_computed_are_an_error(
    write_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamafw_backends.onnx import row_lowering
    from llamafw_backends.onnx.lowering import LOWERINGS

    def lower_add(value: g.Add, low: Any) -> str:
        low.builder.input("mystery", np.float32, ["n"])
        return row_lowering.lower_add(value, low)

    monkeypatch.setitem(LOWERINGS, g.Add, lower_add)
    with pytest.raises(LlamafwError, match="the inputs mystery cannot be computed in the model"):
        export(write_model(), tmp_path)


def test_command_writes_files_that_the_example_runs(
    real_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example generates the tokens of the backend."""
    assert main(["export", str(real_model), str(tmp_path), "-c", "256"]) == 0
    out = capsys.readouterr().out
    assert "model.onnx with" in out
    assert "tokenizer.json" in out

    page = (ROOT / "docs/export.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    program = tmp_path / "generate.py"
    program.write_text(code, "utf-8")
    command = [sys.executable, str(program), str(tmp_path), PROMPT, str(N_TOKENS)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    tokens = Library.from_file(str(tmp_path / "tokenizer.json")).encode(PROMPT).ids
    generated: list[int] = []
    with open_backend(real_model, n_ctx=256, n_slots=1) as backend:
        position = 0
        while len(generated) < N_TOKENS:
            rows = backend.forward(batch((0, position, tokens), outputs=[len(tokens) - 1]))
            position += len(tokens)
            tokens = [int(rows[0].argmax())]
            generated += tokens
    assert answer["tokens"] == generated
    assert "Paris" in answer["text"]


def test_tokenizers_of_scores_have_no_tokenizer_json(
    write_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(write_model(tokenizer="llama")), str(tmp_path)]) == 0
    assert "no tokenizer.json" in capsys.readouterr().out
    assert not (tmp_path / "tokenizer.json").exists()
    assert (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("n_ctx", ["0", "-3"])
def test_wrong_number_of_positions_is_refused(n_ctx: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from llamafw_backends.onnx.export import run

    with pytest.raises(SettingsError, match=f"-c {n_ctx} is not a number of positions"):
        run(["smollm2-135m", str(tmp_path), "-c", n_ctx])


# --- what is there, and what is left


@pytest.fixture
def folder(write_model: Any, tmp_path: Path) -> Path:
    """A folder with an exported model."""
    assert main(["export", str(write_model()), str(tmp_path / "exported")]) == 0
    return tmp_path / "exported"


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {one.name: one.read_bytes() for one in folder.iterdir()}


def test_earlier_export_is_replaced_only_with_a_flag(
    folder: Path, write_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    assert set(before) == {"model.onnx", "model.onnx.data", "model.json", "tokenizer.json"}
    other = str(write_model(tokenizer="llama", n_layer=1))
    assert main(["export", other, str(folder)]) == 1
    assert f"{folder / 'model.onnx'} exists; --force replaces the model in {folder}" in capsys.readouterr().err
    assert contents(folder) == before

    (folder / "README").write_text("mine")
    assert main(["export", other, str(folder), "--force"]) == 0
    after = contents(folder)
    assert set(after) == {"model.onnx", "model.onnx.data", "model.json", "README"}  # that of the first is gone
    assert all(after[name] != before[name] for name in ("model.onnx", "model.onnx.data"))
    assert Exported(folder).run(TOKENS, "logits").shape[0] == len(TOKENS)


def test_folder_that_cannot_be_used_is_refused_before_the_model_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "model.json").mkdir()
    for folder, words in (("file", "is not a folder"), (".", "model.json is a folder; choose another DIR")):
        assert main(["export", "missing.gguf", str(tmp_path / folder), "--force"]) == 1
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("is_new", [True, False])
def test_full_disk_leaves_what_was_there(
    folder: Path,
    write_model: Any,
    is_new: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from llamafw_backends.onnx import export as module

    def fail(weights: Any, locations: Any, path: Path) -> None:
        path.write_bytes(b"half of the weights")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_weights", fail)
    before, target = contents(folder), folder.parent / "new" if is_new else folder
    assert main(["export", str(write_model()), str(target), "--force"]) == 1
    assert f"llamafw: {target}: the model cannot be written: No space left on device" in capsys.readouterr().err
    assert contents(folder) == before
    assert not (folder.parent / "new").exists()


WAITING = """
import sys
from llamafw import hookimpl

def wait(weights, locations, path):
    path.write_bytes(b"half of the weights")
    print("writing", flush=True)
    sys.stdin.read()

@hookimpl
def register_quants(register):
    from llamafw_backends.onnx import export
    export.write_weights = wait
"""


@pytest.mark.skipif(os.name == "nt", reason="signals end a process on Windows without telling it")
@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_leaves_what_was_there(folder: Path, write_model: Any, is_new: bool, name: str) -> None:
    number, before = signal.Signals[name], contents(folder)
    target = folder.parent / "new" if is_new else folder
    (plugin := folder.parent / "waiting.py").write_text(WAITING)
    words = "export", write_model(), target, "--force", "--plugin", plugin
    command = [sys.executable, "-m", "llamafw", *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(number)
        process.communicate(timeout=60)  # ends stdin
    assert line == "writing\n"
    assert process.returncode == (130 if name == "SIGINT" else -number)
    assert contents(folder) == before
    assert not (folder.parent / "new").exists()
