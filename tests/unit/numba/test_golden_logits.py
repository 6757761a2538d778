"""Logits of Llama models are those of the first version of the kernels, to the bit.

``golden_logits.json`` was made by that version, from the commit before the kernels began to run graphs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from llamafw.testing.batches import logits
from llamafw.testing.tiny import write_tiny_gguf
from support.numba_backend import open_backend

GOLDEN = Path(__file__).with_name("golden_logits.json")
TOKENS = [(7 * i * i + 3 * i + 1) % 300 for i in range(45)]
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # arguments of the model's writer, options of the backend
    "Q4_1 with biases": ({"types": "Q4_1", "biases": True}, {}),
    "Q8_0, not tied, heads of 32": ({"types": "Q8_0", "tied": False, "n_embd_head": 32, "n_head_kv": 1}, {}),
    "several types": ({"types": {"default": "Q4_0", "attn_v": "F16", "ffn_down": "Q8_0", "ffn_up": "BF16"}}, {}),
    "F32 with a KV cache of F32": ({"n_embd": 96, "n_head": 6, "n_head_kv": 6, "n_ff": 160}, {"cache_type_k": "f32"}),
}


def measure(folder: Path, case: str, **options: Any) -> str:
    """Return the hash of the logits' bits."""
    model, backend_options = CASES[case]
    path = write_tiny_gguf(folder / "model.gguf", n_layer=3, **model)
    with open_backend(path, **backend_options, **options) as backend:
        return hashlib.sha256(logits(backend, TOKENS, [17, 20, 1, 1, 6]).tobytes()).hexdigest()


@pytest.mark.parametrize("case", CASES)
def test_logits_are_unchanged(tmp_path: Path, case: str) -> None:
    """Models of several types give the logits of the first version."""
    assert measure(tmp_path, case) == json.loads(GOLDEN.read_text())[case]
