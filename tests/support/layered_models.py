"""Models with many small layers, in the shapes that the rules for types of tensors tell apart.

``unit/models/llama_quantize_types.json`` has the types that llama-quantize of llama.cpp b11434 gives their tensors.
Their matrices are too small to be computed with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llamafw.models.gguf import read_gguf
from llamafw.models.imatrix import Sums, write_imatrix
from llamafw.plugins import Plugins
from llamafw.testing.gguf_file import write_gguf

ATTENTION = "attn_q", "attn_k", "attn_v", "attn_output"
FFN = "ffn_gate", "ffn_up", "ffn_down"
EXPERTS = "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"


@dataclass(frozen=True, slots=True)
class LayeredModel:
    """What the rules see of a model."""

    architecture: str
    n_layer: int
    n_head: int
    n_head_kv: int
    n_expert: int = 0
    n_columns: int = 256
    tied: bool = False
    roles: tuple[str, ...] = (*ATTENTION, *FFN)


MODELS = {
    "llama": LayeredModel("llama", 24, 8, 2, tied=True),
    "many heads": LayeredModel("llama", 17, 4, 4),
    "8 experts": LayeredModel("llama", 16, 8, 2, n_expert=8, roles=(*ATTENTION, "ffn_gate_inp", *EXPERTS)),
    "128 experts": LayeredModel("qwen3moe", 20, 8, 2, n_expert=128, roles=(*ATTENTION, "ffn_gate_inp", *EXPERTS)),
    "falcon": LayeredModel("falcon", 32, 8, 1, roles=("attn_qkv", "attn_output", "ffn_up", "ffn_down")),
    "80 layers": LayeredModel("llama", 80, 16, 8),
    "576 columns": LayeredModel("llama", 30, 9, 3, n_columns=576, tied=True),
    "100 columns": LayeredModel("llama", 4, 2, 1, n_columns=100),
}


def write_layered(path: Path, name: str) -> Path:
    """Write one of `MODELS` as BF16; return ``path``."""
    one, rng = MODELS[name], np.random.default_rng(0)
    keys: dict[str, Any] = {
        "block_count": one.n_layer,
        "context_length": 64,
        "embedding_length": one.n_columns,
        "feed_forward_length": one.n_columns,
        "attention.head_count": one.n_head,
        "attention.head_count_kv": one.n_head_kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
    }
    if one.n_expert:
        keys |= {"expert_count": one.n_expert, "expert_used_count": 2, "expert_feed_forward_length": one.n_columns}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (4, one.n_columns), "output_norm.weight": (256,)}
    if not one.tied:
        shapes["output.weight"] = (4, one.n_columns)
    for i in range(one.n_layer):
        shapes[f"blk.{i}.attn_norm.weight"] = (one.n_columns,)
        for role in one.roles:
            experts = (one.n_expert,) if role.endswith("exps") else ()
            shapes[f"blk.{i}.{role}.weight"] = (*experts, 2, one.n_columns)
    tensors: dict[str, tuple[Any, str]] = {}
    for tensor, shape in shapes.items():
        weights = rng.normal(size=shape).astype(np.float32)
        is_matrix = len(shape) > 1
        tensors[tensor] = ((weights.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8), "BF16")
        if not is_matrix:
            tensors[tensor] = (weights, "F32")
    write_gguf(path, one.architecture, {f"{one.architecture}.{key}": value for key, value in keys.items()}, tensors)
    return path


def write_importance(path: Path, model: Path) -> Path:
    """Write an importance matrix for the matrices of the layers; return ``path``."""
    sums = {}
    for name, tensor in read_gguf(model, Plugins().registry("quant")).tensors.items():
        if name.startswith("blk.") and len(tensor.shape) > 1:
            n = int(np.prod(tensor.shape[:-2]))
            sums[name] = Sums(np.ones((n, tensor.shape[-1]), np.float32), np.full(n, 2, np.float32))
    write_imatrix(path, sums, "text.txt", n_chunks=1, n_ctx=512, force=True)
    return path
