"""``--check-tensors`` finds weights that are not finite, in all kinds of tensor types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llamafw import ModelError
from llamafw.models import check_tensors
from llamafw.models.gguf import read_gguf
from llamafw.testing.tiny import write_tiny_gguf
from support.gguf_models import QUANTS


@pytest.mark.inventory("C-052")
@pytest.mark.parametrize("types", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_a_model_with_finite_weights_passes(tmp_path: Path, types: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_tensors, "_MAX_WEIGHTS", 1000)  # several steps
    check_tensors.check_tensors(read_gguf(write_tiny_gguf(tmp_path / "model.gguf", types=types), QUANTS), QUANTS)


@pytest.mark.inventory("C-052")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_found(tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_tensors, "_MAX_WEIGHTS", 1000)
    weights = np.zeros((64, 128), np.float32)
    weights[63, 127] = value
    path = write_tiny_gguf(tmp_path / "model.gguf", tensors={"blk.1.ffn_down.weight": weights})
    with pytest.raises(ModelError, match=r"'blk.1.ffn_down.weight' has weights .*: 1 in rows 63 to 63"):
        check_tensors.check_tensors(read_gguf(path, QUANTS), QUANTS)


@pytest.mark.inventory("C-052")
def test_a_scale_that_is_not_finite_is_found(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "model.gguf", types="Q8_0")
    tensor = read_gguf(path, QUANTS).tensors["blk.0.ffn_up.weight"]
    content = path.read_bytes()
    start = content.index(tensor.data.tobytes())  # of the first block, which begins with its scale
    path.write_bytes(content[:start] + np.array([np.nan], np.float16).tobytes() + content[start + 2 :])
    with pytest.raises(ModelError, match="'blk.0.ffn_up.weight' has weights .*: 32 in rows 0 to"):
        check_tensors.check_tensors(read_gguf(path, QUANTS), QUANTS)
