"""``llamafw fit``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkpoints import write
from llamafw.cli.main import main
from llamafw.engine.machine_memory import Memory
from llamafw.testing.adapters import random_factors, write_lora
from llamafw.testing.tiny import write_tiny_gguf
from support.predicting_models import find


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny model, on a machine of 1 GiB."""
    monkeypatch.setattr("llamafw.engine.machine_memory.read_memory", lambda: Memory(2**30, 2**29))
    return str(write_tiny_gguf(tmp_path / "tiny.gguf"))


def test_sizes_are_printed(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", model, "-c", "1024", "-np", "2"]) == 0
    output = capsys.readouterr().out
    assert "KV cache, 2 x 512 tokens" in output
    assert "1,024.0 MiB" in output
    assert output.endswith("the server fits into memory\n")


def test_context_that_does_not_fit_exits_with_1(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-m", model, "-c", "50000000", "-np", "1"]) == 1
    assert "would fit" in capsys.readouterr().out.splitlines()[-1]


def test_json_has_the_sizes_in_bytes(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", model, "-c", "1024", "-np", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_slots"], found["n_ctx"], found["fits"]) == (2, 512, True)
    assert found["total"] == found["weights"] + found["cache"] + found["activations"] + found["program"]
    assert (found["memory"], found["available"]) == (2**30, 2**29)


def test_block_for_predictions_is_counted(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(find("glm4moe-groups-nextn"), tmp_path / "predicting.gguf"))
    sizes = {}
    for flags in ((), ("--spec-type", "draft-mtp"), ("--spec-type", "draft-mtp", "-ctkd", "f32", "-ctvd", "f32")):
        assert main(["fit", path, "-c", "128", "-np", "2", "--json", *flags]) == 0
        sizes[flags] = json.loads(capsys.readouterr().out)
    plain, half, full = sizes.values()
    n_numbers = 2 * 2 * 16  # keys and values of 2 heads, of 16 numbers each
    assert half["cache"] - plain["cache"] == 128 * n_numbers * 2
    assert full["cache"] - plain["cache"] == 128 * n_numbers * 4
    assert half["activations"] > plain["activations"]

    assert main(["fit", model, "--spec-type", "draft-mtp"]) != 0
    assert "draft-mtp needs a block" in capsys.readouterr().err


def test_what_is_loaded_beside_the_model_is_counted(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = str(write_tiny_gguf(tmp_path / "draft.gguf", n_layer=1))
    lora = str(write_lora(tmp_path / "lora.gguf", random_factors({"blk.0.ffn_up.weight": (128, 64)}, 16, 0)))
    encoder = str(write(find("bert"), tmp_path / "encoder.gguf"))
    argv = ["fit", model, "-c", "1024", "-np", "2", "-md", draft, "--lora-scaled", f"{lora}:0.5"]
    argv += ["--embedding-model", encoder, "--reranking-model", draft, "--embedding-ctx-size", "256"]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    parts = found["parts"]
    assert list(parts) == ["model", "draft model", "adapters", "embedding model", "reranking model"]
    kinds = ("weights", "cache", "activations", "vocabulary")
    for kind in kinds:
        assert found[kind] == sum(part[kind] for part in parts.values())
    assert found["total"] == sum(found[kind] for kind in kinds) + found["program"]
    assert [name for name, part in parts.items() if part["vocabulary"]] == [
        "draft model",
        "embedding model",
        "reranking model",
    ]
    assert parts["draft model"]["cache"] * 2 == parts["model"]["cache"]  # it has half of the layers
    assert parts["adapters"]["weights"] == 2 * 4 * 16 * (128 + 64)  # also as they are in the file
    assert parts["reranking model"]["cache"] * 4 == parts["draft model"]["cache"]  # 256 of 1024 positions

    assert main(argv) == 0
    rows = capsys.readouterr().out
    assert "draft model: KV cache" in rows
    assert "adapters: weights" in rows
    assert "embedding model: KV cache" not in rows  # it keeps nothing


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-md", "missing.gguf"), "--spec-draft-model: "),
        (("--lora", "missing.gguf"), "--lora: the adapter missing.gguf does not exist"),
        (("--embedding-model", "missing.gguf"), "--embedding-model: "),
    ],
)
def test_missing_file_names_the_flag(
    model: str, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert main(["fit", model, *flags]) != 0
    assert message in capsys.readouterr().err
