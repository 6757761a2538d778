"""``--check-tensors``: damaged weights are found, wherever they are, in every kind of type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llamafw import ModelError
from llamafw.models import check_tensors
from llamafw.models.gguf import read_gguf
from support.gguf_models import QUANTS
from support.tiny import write_tiny_gguf


@pytest.mark.inventory("C-052")
@pytest.mark.parametrize("types", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_a_sound_model(tmp_path: Path, types: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_tensors, "_AT_ONCE", 1000)  # several steps
    check_tensors.check_tensors(read_gguf(write_tiny_gguf(tmp_path / "model.gguf", types=types), QUANTS), QUANTS)


@pytest.mark.inventory("C-052")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number(tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_tensors, "_AT_ONCE", 1000)
    weights = np.zeros((64, 128), np.float32)
    weights[63, 127] = value
    path = write_tiny_gguf(tmp_path / "model.gguf", tensors={"blk.1.ffn_down.weight": weights})
    with pytest.raises(ModelError, match=r"'blk.1.ffn_down.weight' has weights .*: 1 in rows 63 to 63"):
        check_tensors.check_tensors(read_gguf(path, QUANTS), QUANTS)


@pytest.mark.inventory("C-052")
def test_a_scale_that_is_no_number(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "model.gguf", types="Q8_0")
    tensor = read_gguf(path, QUANTS).tensors["blk.0.ffn_up.weight"]
    raw = path.read_bytes()  # a block begins with its scale
    at = raw.index(tensor.data.tobytes())
    path.write_bytes(raw[:at] + np.array([np.nan], np.float16).tobytes() + raw[at + 2 :])
    with pytest.raises(ModelError, match="'blk.0.ffn_up.weight' has weights .*: 32 in rows 0 to"):
        check_tensors.check_tensors(read_gguf(path, QUANTS), QUANTS)
