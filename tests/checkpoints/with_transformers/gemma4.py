"""The architecture ``gemma4`` as transformers' Gemma 4."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Gemma4ForCausalLM, Gemma4TextConfig

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    factors = tensors.pop("rope_freqs.weight")
    tensors = {name: tensor for name, tensor in tensors.items() if name not in checkpoint.skipped}
    model = load_folder(Gemma4ForCausalLM, Gemma4TextConfig(**fields_of(checkpoint)), checkpoint, tensors)
    model.model.rotary_emb.full_attention_inv_freq /= factors
    return model


def fields_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of the config."""
    keys, fields = checkpoint.metadata, common(checkpoint)
    is_windowed = checkpoint.key("attention.sliding_window_pattern")
    n_kv, n_ff = checkpoint.key("attention.head_count_kv"), checkpoint.key("feed_forward_length")
    n_kv = n_kv if isinstance(n_kv, list) else [n_kv] * len(is_windowed)
    n_ff = n_ff if isinstance(n_ff, list) else [n_ff] * len(is_windowed)
    full = {"rope_type": "default", "rope_theta": checkpoint.key("rope.freq_base")}
    local = {"rope_type": "default", "rope_theta": checkpoint.key("rope.freq_base_swa")}
    return fields | {
        "intermediate_size": n_ff[0],
        "use_double_wide_mlp": n_ff[-1] == 2 * n_ff[0],
        "num_key_value_heads": n_kv[is_windowed.index(True)],
        "num_global_key_value_heads": n_kv[is_windowed.index(False)],
        "head_dim": checkpoint.key("attention.key_length_swa"),
        "global_head_dim": checkpoint.key("attention.key_length"),
        "attention_k_eq_v": f"blk.{is_windowed.index(False)}.attn_v.weight" not in checkpoint.shapes,
        "num_kv_shared_layers": checkpoint.key("attention.shared_kv_layers"),
        "sliding_window": checkpoint.key("attention.sliding_window"),
        "layer_types": ["sliding_attention" if one else "full_attention" for one in is_windowed],
        "rope_parameters": {"full_attention": full, "sliding_attention": local},
        "final_logit_softcapping": checkpoint.key("final_logit_softcapping") or None,
        "vocab_size_per_layer_input": fields["vocab_size"],
        "hidden_size_per_layer_input": checkpoint.key("embedding_length_per_layer_input"),
        "enable_moe_block": "gemma4.expert_count" in keys,
        "num_experts": keys.get("gemma4.expert_count"),
        "top_k_experts": keys.get("gemma4.expert_used_count"),
        "moe_intermediate_size": keys.get("gemma4.expert_feed_forward_length"),
    }
