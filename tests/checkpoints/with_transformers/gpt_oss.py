"""The architecture ``gpt-oss`` as transformers' gpt-oss."""

from __future__ import annotations

import torch
from transformers import GptOssConfig, GptOssForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, layer_types, load, rename

NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "attn_sinks": "self_attn.sinks",
    "ffn_gate_inp": "mlp.router",
}


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    fields["rope_parameters"]["truncate"] = False  # as in the config of the real models
    config = GptOssConfig(
        **fields,
        num_local_experts=checkpoint.key("expert_count"),
        num_experts_per_tok=checkpoint.key("expert_used_count"),
        sliding_window=checkpoint.key("attention.sliding_window"),
        layer_types=layer_types(checkpoint),
    )
    rest = {name: tensor for name, tensor in tensors.items() if "_exps." not in name}
    state = rename(rest, NAMES)
    for i in range(config.num_hidden_layers):
        state[f"model.layers.{i}.self_attn.sinks"] = state.pop(f"model.layers.{i}.self_attn.sinks.weight")
        for part, suffix in (("weight", ""), ("bias", "_bias")):
            gate, up, down = (tensors[f"blk.{i}.ffn_{name}_exps.{part}"] for name in ("gate", "up", "down"))
            fused = torch.stack([gate, up], 2).flatten(1, 2)  # gate 0, up 0, gate 1, up 1 …
            matrices = {"gate_up_proj": fused, "down_proj": down}
            for name, matrix in matrices.items():
                state[f"model.layers.{i}.mlp.experts.{name}{suffix}"] = matrix if suffix else matrix.mT
    return load(GptOssForCausalLM, config, state)
