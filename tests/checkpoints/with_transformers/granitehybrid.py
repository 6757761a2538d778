"""The architecture ``granitehybrid`` as transformers' Granite-MoE-Hybrid."""

from __future__ import annotations

import torch
from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder
from checkpoints.with_transformers.granite import expert_fields


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint; without experts, every token uses the shared one."""
    n_kv, fields = checkpoint.key("attention.head_count_kv"), expert_fields(checkpoint)
    if not fields["num_local_experts"]:
        fields["shared_intermediate_size"] = fields["intermediate_size"]
    config = GraniteMoeHybridConfig(
        **fields
        | {
            "num_key_value_heads": max(n_kv),
            "layer_types": ["full_attention" if n else "linear_attention" for n in n_kv[: fields["num_hidden_layers"]]],
            "position_embedding_type": "rope" if checkpoint.key("rope.scaling.finetuned") else None,
            "mamba_n_heads": checkpoint.key("ssm.time_step_rank"),
            "mamba_n_groups": checkpoint.key("ssm.group_count"),
            "mamba_d_state": checkpoint.key("ssm.state_size"),
            "mamba_d_conv": checkpoint.key("ssm.conv_kernel"),
        }
    )
    return load_folder(GraniteMoeHybridForCausalLM, config, checkpoint, tensors)
