"""The architecture ``llama`` as transformers' Llama, or as its Mixtral if it has experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    n_head, n_kv = checkpoint.key("attention.head_count"), checkpoint.key("attention.head_count_kv")
    if tensors["blk.0.attn_output.weight"].shape[1] == n_head * checkpoint.key("rope.dimension_count"):
        return build_plain(checkpoint, tensors)

    models = [build_plain(checkpoint, half_of_values(tensors, half, n_head, n_kv)) for half in range(2)]
    for layer, other in zip(*(model.model.layers for model in models), strict=True):
        layer.self_attn.forward = sum_of_outputs(layer.self_attn.forward, other.self_attn.forward)
    models[0].config.use_cache = False  # both parts would write to it
    return models[0]


def sum_of_outputs(first: Callable[..., Any], second: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes two attention blocks, each with one half of the values, and adds the outputs."""

    def forward(*args: Any, **options: Any) -> tuple[torch.Tensor, None]:
        return first(*args, **options)[0] + second(*args, **options)[0], None

    return forward


def half_of_values(tensors: Tensors, half: int, n_head: int, n_kv: int) -> Tensors:
    """Return the tensors with one half of each head's values, 0 or 1, and the columns of the output for it."""
    result = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith("attn_v.weight"):
            result[name] = tensor.unflatten(0, (n_kv, 2, -1))[:, half].flatten(0, 1)
        elif name.endswith("attn_output.weight"):
            result[name] = tensor.unflatten(1, (n_head, 2, -1))[:, :, half].flatten(1, 2)
    return result


def build_plain(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model if values have the size of keys."""
    factors = tensors.pop("rope_freqs.weight", None)
    fields = common(checkpoint)
    if "llama.expert_count" in checkpoint.metadata:
        n_expert, n_used = checkpoint.key("expert_count"), checkpoint.key("expert_used_count")
        config = MixtralConfig(**fields, num_local_experts=n_expert, num_experts_per_tok=n_used)
        return load_folder(MixtralForCausalLM, config, checkpoint, tensors)

    biases = {"attention_bias": "blk.0.attn_output.bias" in tensors, "mlp_bias": "blk.0.ffn_up.bias" in tensors}
    model = load_folder(LlamaForCausalLM, LlamaConfig(**fields, **biases), checkpoint, tensors)
    if factors is not None:
        model.model.rotary_emb.inv_freq /= factors
    if "llama.attention.scale" in checkpoint.metadata:
        for layer in model.model.layers:
            layer.self_attn.scaling = checkpoint.key("attention.scale")
    return model
