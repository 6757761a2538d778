"""The architecture ``lfm2`` as transformers' LFM2, and what ``lfm2moe`` shares with it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Lfm2Config(**fields(checkpoint), block_auto_adjust_ff_dim=False)
    return load_folder(Lfm2ForCausalLM, config, checkpoint, tensors)


def fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a config."""
    found, n_kv = common(checkpoint), checkpoint.key("attention.head_count_kv")
    return {
        **found,
        "num_key_value_heads": max(n_kv),
        "norm_eps": found["rms_norm_eps"],
        "layer_types": ["full_attention" if n else "conv" for n in n_kv[: checkpoint.key("block_count")]],
        "conv_L_cache": checkpoint.key("shortconv.l_cache"),
        "conv_bias": any(name.endswith("shortconv.conv.bias") for name in checkpoint.shapes),
    }
