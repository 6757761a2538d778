"""``llamafw fit``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkpoints import write
from llamafw.cli.main import main
from llamafw.engine.machine_memory import Memory
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
