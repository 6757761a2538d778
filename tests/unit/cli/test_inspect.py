"""``llamafw inspect`` prints what a file has, and why it does not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import all_checkpoints, write
from checkpoints.folders import write_folder
from llamafw.cli.main import main
from llamafw.models.imatrix import Sums, write_imatrix
from llamafw.testing.tiny import write_tiny_gguf
from support.predicting_models import find


def inspect(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["inspect", *map(str, words)]) == 0
    return capsys.readouterr().out


def inspect_json(capsys: pytest.CaptureFixture[str], path: Path) -> Any:
    return json.loads(inspect(capsys, path, "--json"))


def test_description_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", types={"default": "Q8_0", "attn_v": "F16"})
    found = inspect_json(capsys, path)
    assert found["architecture"] == "llama"
    assert found["runs"] is True
    assert found["problems"] == {}
    assert found["backends"]["numba"] is None
    assert found["types"]["F16"] == {"tensors": 2, "weights": 2 * 32 * 64, "bytes": 2 * 2 * 32 * 64}
    assert found["types"]["Q8_0"]["bytes"] * 32 == found["types"]["Q8_0"]["weights"] * 34
    assert found["n_bytes"] == sum(one["bytes"] for one in found["types"].values())
    assert found["n_vocab"] == found["tokenizer"]["n_vocab"] == found["metadata"]["tokenizer.ggml.tokens"]["length"]
    assert "<|im_start|>" in found["chat_template"]
    assert {"name": "blk.0.attn_v.weight", "type": "F16", "shape": [32, 64]} in found["tensors"]

    text = inspect(capsys, path)
    for part in ("runs: yes", "architecture: llama", "tokenizer: gpt2", "llama.block_count = 2", "Q8_0"):
        assert part in text
    assert "blk.0.attn_v.weight" not in text
    assert "blk.0.attn_v.weight" in inspect(capsys, path, "--tensors")
    assert found["chat_template"] in inspect(capsys, path, "--template")


def test_block_for_predictions_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [
        write_tiny_gguf(tmp_path / "tiny.gguf"),
        write(find("qwen35-mtp-tied"), tmp_path / "predicting.gguf"),
    ]
    assert [inspect_json(capsys, path)["predicts_further_token"] for path in paths] == [False, True]
    assert ["--spec-type draft-mtp" in inspect(capsys, path) for path in paths] == [False, True]


@pytest.mark.parametrize(
    ("metadata", "part", "reason"),
    [
        ({"general.architecture": "lama"}, "architecture", "no plugin provides the architecture 'lama'"),
        ({"tokenizer.ggml.model": "word"}, "tokenizer", "no plugin provides the tokenizer 'word'"),
        ({"llama.block_count": None}, "architecture", "block_count"),
    ],
)
def test_reason_why_a_model_does_not_run(
    tmp_path: Path, metadata: dict[str, Any], part: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", metadata=metadata)
    found = inspect_json(capsys, path)
    assert found["runs"] is False
    assert reason in found["problems"][part]
    assert "runs: no, " in inspect(capsys, path)


def test_reason_why_a_backend_does_not_run_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "from llamafw import ModelError, hookimpl\n"
        "class Mine:\n"
        "    def __call__(self, context): raise AssertionError\n"
        "    def describe_step(self, context):\n"
        "        raise ModelError(f'{context.model.path}: it has {context.graph.n_embd}')\n"
        "@hookimpl\n"
        "def register_backends(register): register('mine', Mine())\n"
    )
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    text = inspect(capsys, path, "--plugin", tmp_path / "mine.py")
    assert "runs: yes, with the backends numba" in text
    assert "  not with mine: it has 64" in text


def test_files_that_are_no_models_are_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "imatrix.gguf"
    sums = {"blk.0.attn_q.weight": Sums(np.ones((1, 4), np.float32), np.ones(1, np.float32))}
    write_imatrix(path, sums, "text.txt", n_chunks=1, n_ctx=512, force=False)
    found = inspect_json(capsys, path)
    assert found["runs"] is False
    assert "a file of the type 'imatrix'" in found["problems"]["type"]
    assert found["metadata"]["imatrix.datasets"] == ["text.txt"]


def test_checkpoints_are_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint,) = [one for one in all_checkpoints() if one.name == "qwen3"]
    found = inspect_json(capsys, write_folder(checkpoint, tmp_path / "model"))
    assert found["architecture"] == "qwen3"
    assert found["runs"] is True


def test_other_files_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.gguf").write_text("text")
    assert main(["inspect", str(tmp_path / "text.gguf")]) == 1
    assert "this is not a GGUF file" in capsys.readouterr().err
