"""Tiny models with a block for multi-token prediction."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from checkpoints import Checkpoint, all_checkpoints, tensors
from llamafw.testing import vocabularies
from llamafw.testing.gguf_file import write_gguf

NAMES = ("qwen35-mtp-tied", "qwen35moe-fused", "deepseek2-dense-mtp", "glm4moe-groups-nextn")


def find(name: str) -> Checkpoint:
    """Return a checkpoint."""
    (found,) = [one for one in all_checkpoints() if one.name == name]
    return found


def write_predictable(checkpoint: Checkpoint, path: Path) -> Path:
    """Write a checkpoint whose block predicts what the model will write; return ``path``.

    All layers add nothing, so that the next token follows from the last one alone. Of its two inputs, the block returns
    the embedding of the token, as the model does. The output matrix is random, or the model would repeat a token.
    """
    changed = tensors(checkpoint)
    n_embd = checkpoint.key("embedding_length")
    for name, array in changed.items():
        if any(fnmatch(name, pattern) for pattern in ("*.attn_output.weight", "*.ffn_down*", "*.ssm_out.weight")):
            array[...] = 0
        elif name.endswith("eh_proj.weight"):
            array[...] = np.eye(n_embd, 2 * n_embd)
        elif fnmatch(name, "*.nextn.?norm.weight"):
            array[...] = 1
        elif name.endswith("shared_head_norm.weight"):
            array[...] = changed["output_norm.weight"]
    shape = changed["token_embd.weight"].shape
    changed["output.weight"] = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)

    metadata = {**vocabularies.gpt2(shape[0]), **checkpoint.metadata}
    write_gguf(path, checkpoint.architecture, metadata, {name: (array, "F32") for name, array in changed.items()})
    return path
