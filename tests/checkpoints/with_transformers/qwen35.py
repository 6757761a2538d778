"""The architecture ``qwen35`` as transformers' Qwen3.5, and what ``qwen35moe`` and ``qwen3next`` share with it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, fuse_experts, load, rename, split_rows

NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_qkv": "linear_attn.in_proj_qkv",
    "ssm_in": "linear_attn.in_proj_qkvz",
    "ssm_ba": "linear_attn.in_proj_ba",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_dt_bias": "linear_attn.dt_bias",
    "ssm_a": "linear_attn.A_log",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
    "ffn_gate_up_exps": "mlp.experts.gate_up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
}
OF_VALUES = ("attn_gate", "ssm_beta", "ssm_alpha", "ssm_dt", "ssm_a")
"""Parameters of delta nets whose rows belong to heads of the values."""


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    state = state_of(checkpoint, ungroup(checkpoint, tensors))
    return load(Qwen3_5ForCausalLM, Qwen3_5TextConfig(**fields(checkpoint)), state)


def fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a config."""
    found, is_recurrent = common(checkpoint), recurrent_layers(checkpoint)
    n_head = checkpoint.key("ssm.time_step_rank")
    found["rope_parameters"] |= {"partial_rotary_factor": checkpoint.key("rope.dimension_count") / found["head_dim"]}
    if sections := checkpoint.metadata.get(f"{checkpoint.architecture}.rope.dimension_sections"):
        found["rope_parameters"] |= {"mrope_section": sections[:3], "mrope_interleaved": True}
    return {
        **found,
        "num_hidden_layers": len(is_recurrent),
        "layer_types": ["linear_attention" if one else "full_attention" for one in is_recurrent],
        "linear_conv_kernel_dim": checkpoint.key("ssm.conv_kernel"),
        "linear_key_head_dim": checkpoint.key("ssm.state_size"),
        "linear_value_head_dim": checkpoint.key("ssm.inner_size") // n_head,
        "linear_num_key_heads": checkpoint.key("ssm.group_count"),
        "linear_num_value_heads": n_head,
    }


def expert_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a config with experts."""
    return {
        **fields(checkpoint),
        "moe_intermediate_size": checkpoint.key("expert_feed_forward_length"),
        "shared_expert_intermediate_size": checkpoint.key("expert_shared_feed_forward_length"),
        "num_experts": checkpoint.key("expert_count"),
        "num_experts_per_tok": checkpoint.key("expert_used_count"),
    }


def recurrent_layers(checkpoint: Checkpoint) -> list[bool]:
    """Return which layers are delta nets, without the blocks that predict a second token."""
    keys = {key.partition(".")[2]: value for key, value in checkpoint.metadata.items()}
    n_layer, interval = (
        keys["block_count"] - keys.get("nextn_predict_layers", 0),
        keys.get("full_attention_interval", 4),
    )
    listed: list[bool] = keys.get("attention.recurrent_layers", [i % interval < interval - 1 for i in range(n_layer)])
    return listed


def ungroup(checkpoint: Checkpoint, tensors: Tensors) -> Tensors:
    """Return the tensors with the heads of the values that share a key side by side.

    Files have the first head of each group, then the second one of each group, and so on.
    """
    n_group, n_head = checkpoint.key("ssm.group_count"), checkpoint.key("ssm.time_step_rank")
    n_keys = n_group * checkpoint.key("ssm.state_size")

    def side_by_side(rows: torch.Tensor) -> torch.Tensor:
        return rows.reshape(n_head // n_group, n_group, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)

    result = dict(tensors)
    for name, tensor in tensors.items():
        _, _, role = name.partition("blk.")[2].partition(".")
        role = role.partition(".")[0]
        is_delta_net = name.replace(role, "ssm_out") in tensors if role == "attn_qkv" else True
        if role in OF_VALUES:
            result[name] = side_by_side(tensor)
        elif role == "ssm_conv1d" or (role == "attn_qkv" and is_delta_net):
            result[name] = torch.cat([tensor[: 2 * n_keys], side_by_side(tensor[2 * n_keys :])])
        elif role == "ssm_out":
            result[name] = side_by_side(tensor.T).T
    return result


def state_of(checkpoint: Checkpoint, tensors: Tensors) -> Tensors:
    """Return the parameters by transformers' names, with what all architectures of the family store differently."""
    is_recurrent, found = recurrent_layers(checkpoint), {}
    for name, tensor in tensors.items():
        layer = int(name.split(".")[1]) if name.startswith("blk.") else None
        if layer is not None and layer >= len(is_recurrent):
            continue
        if layer is not None and is_recurrent[layer]:
            name = name.replace("attn_qkv", "ssm_qkv").replace("ssm_dt.bias", "ssm_dt_bias")
        if name.endswith("norm.weight") and not name.endswith("ssm_norm.weight"):
            tensor = tensor - 1
        if name.endswith("ssm_a"):
            tensor = torch.log(-tensor)
        if name.endswith("ssm_conv1d.weight"):
            tensor = tensor[:, None]
        if name.endswith("ffn_gate_inp_shexp.weight"):
            tensor = tensor.reshape(1, -1)
        found[name] = tensor

    n_head, n_kv, size = (common(checkpoint)[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    rows = {"attn_q": 2 * n_head * size, "attn_k": n_kv * size, "attn_v": n_kv * size}
    return rename(fuse_experts(split_rows(found, "attn_qkv", rows)), NAMES)
