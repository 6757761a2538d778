"""The architecture ``llama4`` as transformers' Llama 4."""

from __future__ import annotations

import torch
from transformers import Llama4ForCausalLM, Llama4TextConfig

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields, chunk = common(checkpoint), checkpoint.key("attention.sliding_window")
    n_layer, step = fields["num_hidden_layers"], checkpoint.key("interleave_moe_layer_step")
    fields["intermediate_size_mlp"] = fields.pop("intermediate_size")
    config = Llama4TextConfig(
        **fields,
        intermediate_size=checkpoint.key("expert_feed_forward_length"),
        num_local_experts=checkpoint.key("expert_count"),
        num_experts_per_tok=checkpoint.key("expert_used_count"),
        moe_layers=list(range(step - 1, n_layer, step)) if step else [],
        use_qk_norm=checkpoint.key("expert_count") != 128,
        no_rope_layers=[1 if (i + 1) % 4 or not chunk else 0 for i in range(n_layer)],
        layer_types=["chunked_attention" if (i + 1) % 4 and chunk else "full_attention" for i in range(n_layer)],
        attention_chunk_size=chunk or 8192,
        floor_scale=checkpoint.key("attention.temperature_length"),
        attn_scale=checkpoint.key("attention.temperature_scale"),
    )
    factors = tensors.pop("rope_freqs.weight", None)
    model = load_folder(Llama4ForCausalLM, config, checkpoint, tensors)
    if factors is not None:
        model.model.rotary_emb.inv_freq /= factors
    return model
