"""The architecture ``mistral3`` as transformers' Ministral 3, or as its Mistral if queries do not grow."""

from __future__ import annotations

import torch
from transformers import Ministral3Config, Ministral3ForCausalLM, MistralConfig, MistralForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields, keys = common(checkpoint), checkpoint.metadata
    if "mistral3.attention.temperature_scale" not in keys:
        return load_folder(MistralForCausalLM, MistralConfig(**fields, sliding_window=None), checkpoint, tensors)
    fields["rope_parameters"] |= {
        "mscale": 1.0,
        "mscale_all_dim": checkpoint.key("rope.scaling.yarn_log_multiplier"),
        "beta_fast": checkpoint.key("rope.scaling.yarn_beta_fast"),
        "beta_slow": checkpoint.key("rope.scaling.yarn_beta_slow"),
        "llama_4_scaling_beta": checkpoint.key("attention.temperature_scale"),
        "max_position_embeddings": fields["max_position_embeddings"],
    }
    return load_folder(Ministral3ForCausalLM, Ministral3Config(**fields), checkpoint, tensors)
