"""The architecture ``granite`` as transformers' Granite, and what its relatives share with it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GraniteConfig, GraniteForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, fuse_experts, halves, load, rename

NAMES = {
    "ffn_gate_inp": "block_sparse_moe.router",
    "ffn_gate_up_exps": "block_sparse_moe.experts.gate_up_proj",
    "ffn_down_exps": "block_sparse_moe.experts.down_proj",
    "ffn_gate_up_shexp": "shared_mlp.input_linear",
    "ffn_down_shexp": "shared_mlp.output_linear",
    "ssm_in": "mamba.in_proj",
    "ssm_conv1d": "mamba.conv1d",
    "ssm_dt_bias": "mamba.dt_bias",
    "ssm_a": "mamba.A_log",
    "ssm_d": "mamba.D",
    "ssm_norm": "mamba.norm",
    "ssm_out": "mamba.out_proj",
}


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    has_biases = "blk.0.ffn_up.bias" in tensors
    config = GraniteConfig(**fields(checkpoint), attention_bias=has_biases, mlp_bias=has_biases)
    return load(GraniteForCausalLM, config, state_of(checkpoint, tensors))


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


def state_of(checkpoint: Checkpoint, tensors: Tensors) -> Tensors:
    """Return the parameters by transformers' names, gate and up of the shared expert in one."""
    config, found = fields(checkpoint), {}
    n_kv = config["num_key_value_heads"]
    n_kv = max(n_kv) if isinstance(n_kv, list) else n_kv
    for name, tensor in tensors.items():
        role = name.split(".", 2)[-1]
        if role.startswith(("attn_q.", "attn_k.")):
            tensor = halves(tensor, config["num_attention_heads"] if role.startswith("attn_q.") else n_kv)
        if role == "ssm_a":
            tensor = torch.log(-tensor)
        if role in ("ssm_a", "ssm_d", "ssm_norm.weight"):
            tensor = tensor.flatten()
        if role == "ssm_conv1d.weight":
            tensor = tensor[:, None]
        if role == "ffn_gate_shexp.weight":
            up = tensors[name.replace("ffn_gate", "ffn_up")]
            name, tensor = name.replace("ffn_gate", "ffn_gate_up"), torch.cat([tensor, up])
        if role != "ffn_up_shexp.weight":
            found[name.replace("ssm_dt.bias", "ssm_dt_bias")] = tensor
    return rename(fuse_experts(found), NAMES)
