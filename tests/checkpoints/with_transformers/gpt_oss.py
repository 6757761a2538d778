"""The architecture ``gpt-oss`` as transformers' gpt-oss."""

from __future__ import annotations

import torch
from transformers import GptOssConfig, GptOssForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, layer_types, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    fields["rope_parameters"]["truncate"] = False  # as in the config of the real models
    config = GptOssConfig(
        **fields,
        num_local_experts=checkpoint.key("expert_count"),
        num_experts_per_tok=checkpoint.key("expert_used_count"),
        sliding_window=checkpoint.key("attention.sliding_window"),
        layer_types=layer_types(checkpoint),
    )
    return load_folder(GptOssForCausalLM, config, checkpoint, tensors)
