"""The architecture ``lfm2`` as transformers' LFM2, and what ``lfm2moe`` shares with it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, fuse_experts, load, rename, split_rows

NAMES = {
    "token_embd_norm": "embedding_norm",
    "attn_norm": "operator_norm",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.conv": "conv.conv",
    "shortconv.out_proj": "conv.out_proj",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
    "ffn_gate_inp": "feed_forward.gate",
    "ffn_gate_up_exps": "feed_forward.experts.gate_up_proj",
    "ffn_down_exps": "feed_forward.experts.down_proj",
    "expert_bias": "feed_forward.expert_bias",
}


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Lfm2Config(**fields(checkpoint), block_auto_adjust_ff_dim=False)
    return load(Lfm2ForCausalLM, config, state_of(checkpoint, tensors))


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


def state_of(checkpoint: Checkpoint, tensors: Tensors) -> Tensors:
    """Return the parameters by transformers' names."""
    config = fields(checkpoint)
    n_q, n_kv = (config[name] * config["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    found = {name.replace("exp_probs_b.bias", "expert_bias"): tensor for name, tensor in tensors.items()}
    found |= {name: tensor[:, None] for name, tensor in found.items() if name.endswith("shortconv.conv.weight")}
    found = split_rows(found, "attn_qkv", {"attn_q": n_q, "attn_k": n_kv, "attn_v": n_kv})
    return rename(fuse_experts(found), NAMES)
