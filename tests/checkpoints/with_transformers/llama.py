"""The architecture ``llama`` as transformers' Llama, or as its Mixtral if it has experts."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import EXPERTS, Tensors, common, fuse_experts, halves, load, rename, split_qkv


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    tensors = split_qkv(checkpoint, tensors)
    factors = tensors.pop("rope_freqs.weight", None)
    fields = common(checkpoint)
    n_heads = {"attn_q": fields["num_attention_heads"], "attn_k": fields["num_key_value_heads"]}
    for name, tensor in tensors.items():
        role = name.split(".")[-2]
        if role in n_heads:
            tensors[name] = halves(tensor, n_heads[role])

    if "llama.expert_count" in checkpoint.metadata:
        n_expert, n_used = checkpoint.key("expert_count"), checkpoint.key("expert_used_count")
        config = MixtralConfig(**fields, num_local_experts=n_expert, num_experts_per_tok=n_used)
        return load(MixtralForCausalLM, config, rename(fuse_experts(tensors), EXPERTS))

    biases = {"attention_bias": "blk.0.attn_output.bias" in tensors, "mlp_bias": "blk.0.ffn_up.bias" in tensors}
    model = load(LlamaForCausalLM, LlamaConfig(**fields, **biases), rename(tensors))
    if factors is not None:
        model.model.rotary_emb.inv_freq /= factors
    if "llama.attention.scale" in checkpoint.metadata:
        for layer in model.model.layers:
            layer.self_attn.scaling = checkpoint.key("attention.scale")
    return model
