"""The architecture ``gemma4`` as transformers' Gemma 4."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Gemma4ForCausalLM, Gemma4TextConfig

from checkpoints import Checkpoint
from checkpoints.with_transformers import EXPERTS, Tensors, common, fuse_experts, load, rename
from checkpoints.with_transformers.gemma2 import NAMES as NAMES_OF_GEMMA2

NAMES = {
    **NAMES_OF_GEMMA2,
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
    "per_layer_token_embd": "embed_tokens_per_layer",
    "per_layer_model_proj": "per_layer_model_projection",
    "per_layer_proj_norm": "per_layer_projection_norm",
    "layer_output_scale": "layer_scalar",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
    "ffn_gate_inp": "router.proj",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale",
    **{role: name.removeprefix("mlp.") for role, name in EXPERTS.items()},
}


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    factors = tensors.pop("rope_freqs.weight")
    tensors = {name: tensor for name, tensor in tensors.items() if name not in checkpoint.skipped}
    state = rename(fuse_experts(tensors), NAMES)
    state = {name.replace("layer_scalar.weight", "layer_scalar"): tensor for name, tensor in state.items()}
    model = load(Gemma4ForCausalLM, Gemma4TextConfig(**fields_of(checkpoint)), state)
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
