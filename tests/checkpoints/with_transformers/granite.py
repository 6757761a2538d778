"""The architecture ``granite`` as transformers' Granite, and what its relatives share with it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GraniteConfig, GraniteForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    has_biases = "blk.0.ffn_up.bias" in tensors
    config = GraniteConfig(**fields(checkpoint), attention_bias=has_biases, mlp_bias=has_biases)
    return load_folder(GraniteForCausalLM, config, checkpoint, tensors)


def fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a config."""
    found, keys = common(checkpoint), {key.partition(".")[2]: value for key, value in checkpoint.metadata.items()}
    return found | {
        "attention_multiplier": keys.get("attention.scale", found["head_dim"] ** -0.5),
        "embedding_multiplier": keys.get("embedding_scale", 1.0),
        "residual_multiplier": keys.get("residual_scale", 1.0),
        "logits_scaling": keys.get("logit_scale", 1.0),
    }


def expert_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a config with experts."""
    keys = {key.partition(".")[2]: value for key, value in checkpoint.metadata.items()}
    return fields(checkpoint) | {
        "num_local_experts": keys.get("expert_count", 0),
        "num_experts_per_tok": keys.get("expert_used_count", 0),
        "shared_intermediate_size": keys.get("expert_shared_feed_forward_length", 0),
    }
