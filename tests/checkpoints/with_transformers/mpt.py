"""The architecture ``mpt`` as transformers' MPT, with norms of queries and keys if the checkpoint has them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import MptConfig, MptForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder

Forward = Callable[[torch.Tensor], torch.Tensor]


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = MptConfig(
        vocab_size=checkpoint.shapes["token_embd.weight"][0],
        d_model=checkpoint.key("embedding_length"),
        n_layers=checkpoint.key("block_count"),
        n_heads=checkpoint.key("attention.head_count"),
        max_seq_len=checkpoint.key("context_length"),
        layer_norm_epsilon=checkpoint.key("attention.layer_norm_epsilon"),
        attn_config={
            "clip_qkv": checkpoint.metadata.get("mpt.attention.clamp_kqv"),
            "alibi_bias_max": int(checkpoint.key("attention.max_alibi_bias")),
        },
    )
    norms = {name: tensors.pop(name) for name in list(tensors) if name.endswith(("q_norm.weight", "k_norm.weight"))}
    model = load_folder(MptForCausalLM, config, checkpoint, tensors)
    if norms:  # transformers ignores them
        model.config.attn_config.qk_ln = True
        for i, block in enumerate(model.transformer.blocks):
            weights = [norms[f"blk.{i}.attn_{name}_norm.weight"] for name in "qk"]
            inputs = block.attn.Wqkv
            inputs.forward = normed_inputs(inputs.forward, block.attn.clip_qkv, weights, config.layer_norm_epsilon)
            block.attn.clip_qkv = None  # it would limit normalised numbers
    return model


def normed_inputs(inner: Forward, limit: float, weights: list[torch.Tensor], eps: float) -> Forward:
    """Return the projections of an attention block with limited rows, and queries and keys normalised.

    As in https://github.com/mosaicml/llm-foundry.
    """

    def forward(x: torch.Tensor) -> torch.Tensor:
        *parts, v = inner(x).clamp(-limit, limit).chunk(3, -1)
        normed = [
            torch.nn.functional.layer_norm(part, weight.shape, weight, None, eps)
            for part, weight in zip(parts, weights, strict=True)
        ]
        return torch.cat([*normed, v], -1)

    return forward
