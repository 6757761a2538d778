"""The architecture ``minimax-m2`` as transformers' MiniMax-M2."""

from __future__ import annotations

import torch
from transformers import MiniMaxM2Config, MiniMaxM2ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    fields["rope_parameters"]["partial_rotary_factor"] = checkpoint.key("rope.dimension_count") / fields["head_dim"]
    config = MiniMaxM2Config(
        **fields,
        num_local_experts=checkpoint.key("expert_count"),
        num_experts_per_tok=checkpoint.key("expert_used_count"),
    )
    return load_folder(MiniMaxM2ForCausalLM, config, checkpoint, tensors)
