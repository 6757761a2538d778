"""The architecture ``falcon-h1`` as transformers' Falcon-H1, with factors that are not 1."""

from __future__ import annotations

import torch
from transformers import FalconH1Config, FalconH1ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint, divided by the model's factors."""
    is_tied = "output.weight" not in tensors
    config = FalconH1Config(
        **common(checkpoint),
        mamba_d_ssm=checkpoint.key("ssm.inner_size"),
        mamba_n_heads=checkpoint.key("ssm.time_step_rank"),
        mamba_n_groups=checkpoint.key("ssm.group_count"),
        mamba_d_state=checkpoint.key("ssm.state_size"),
        mamba_d_conv=checkpoint.key("ssm.conv_kernel"),
        mamba_rms_norm="blk.0.ssm_norm.weight" in tensors,
        mamba_norm_before_gate=False,
        attention_bias="blk.0.attn_q.bias" in tensors,
        mlp_bias="blk.0.ffn_up.bias" in tensors,
        embedding_multiplier=1.0 if is_tied else 2.0,
        lm_head_multiplier=1.0 if is_tied else 0.5,
        attention_in_multiplier=0.5,
        attention_out_multiplier=0.75,
        key_multiplier=0.6,
        mlp_multipliers=[1.5, 0.9],
        ssm_in_multiplier=1.25,
        ssm_out_multiplier=0.8,
        ssm_multipliers=[0.5, 1.25, 0.75, 1.5, 0.8],
    )
    return load_folder(FalconH1ForCausalLM, config, checkpoint, tensors)
