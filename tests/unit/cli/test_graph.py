"""``llamafw graph`` prints the operators of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamafw.cli.main import main
from llamafw.testing.tiny import write_tiny_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.mark.parametrize(
    ("form", "start"), [("text", "%0             1  Input(name='tokens')\n"), ("dot", "digraph model {\n")]
)
def test_graph_is_printed(model: Path, form: str, start: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", str(model), "--format", form]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(start)
    assert printed.count("Attention") == 2


def test_graph_as_json_has_values_and_results(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", str(model), "--format=json"]) == 0
    graph = json.loads(capsys.readouterr().out)
    values = graph["values"]
    assert [value["id"] for value in values] == list(range(len(values)))
    assert values[graph["logits"]]["operator"] == "Linear"
    assert values[graph["hidden"]]["operator"] == "RMSNorm"


def test_graph_of_an_unknown_architecture_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", metadata={"general.architecture": "lama"})
    assert main(["graph", str(path)]) == 1
    assert "no plugin provides the architecture 'lama'; did you mean 'llama'?" in capsys.readouterr().err


def test_step_of_the_backend_is_printed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", str(model), "--step"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("attention 4 heads") == 2
    assert "matrix token_embd.weight F32" in printed


def test_step_of_another_backend_is_printed(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "from llamafw import hookimpl\n"
        "class Mine:\n"
        "    def __call__(self, context): raise AssertionError\n"
        "    def describe_step(self, context): return f'{context.graph.n_embd} numbers'\n"
        "@hookimpl\n"
        "def register_backends(register): register('mine', Mine())\n"
    )
    assert main(["graph", str(model), "--step", "--backend", "mine", "--plugin", str(tmp_path / "mine.py")]) == 0
    assert capsys.readouterr().out == "64 numbers\n"


def test_backend_without_a_description_is_an_error(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--step", "--backend", "deterministic", "--plugin", "llamafw.testing.backend"]
    assert main(["graph", str(model), *words]) == 2
    assert "--step: the backend 'deterministic' does not describe its steps" in capsys.readouterr().err


def test_step_of_the_onnx_backend_has_a_flag(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", str(model), "--step", "--backend", "onnx"]) == 0
    expected = capsys.readouterr().out
    assert main(["graph", str(model), "--onnx"]) == 0
    assert capsys.readouterr().out == expected
    assert "GroupQueryAttention" in expected
    assert main(["graph", str(model), "--onnx", "--backend", "numba"]) == 2
    assert "--onnx already names the backend" in capsys.readouterr().err


def test_backend_without_step_is_an_error(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", str(model), "--backend", "numba"]) == 2
    assert "--backend: add --step" in capsys.readouterr().err
