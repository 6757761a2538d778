"""The architecture ``jamba`` as transformers' Jamba."""

from __future__ import annotations

import torch
from transformers import JambaConfig, JambaForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields, n_kv = common(checkpoint), checkpoint.key("attention.head_count_kv")
    del fields["rope_parameters"], fields["head_dim"]
    fields["num_key_value_heads"] = max(n_kv)
    config = JambaConfig(
        **fields,
        num_experts=checkpoint.key("expert_count"),
        num_experts_per_tok=checkpoint.key("expert_used_count"),
        attn_layer_period=len(n_kv),
        attn_layer_offset=n_kv.index(max(n_kv)),
        mamba_d_state=checkpoint.key("ssm.state_size"),
        mamba_d_conv=checkpoint.key("ssm.conv_kernel"),
        mamba_expand=checkpoint.key("ssm.inner_size") // fields["hidden_size"],
        mamba_dt_rank=checkpoint.key("ssm.time_step_rank"),
    )
    return load_folder(JambaForCausalLM, config, checkpoint, tensors)
