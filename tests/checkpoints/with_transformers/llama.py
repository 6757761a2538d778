"""The architecture ``llama`` as transformers' Llama."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, halves, load, rename, split_rows


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    n_head, n_head_kv = checkpoint.key("attention.head_count"), checkpoint.key("attention.head_count_kv")
    size = checkpoint.key("rope.dimension_count")
    config = LlamaConfig(
        vocab_size=checkpoint.shapes["token_embd.weight"][0],
        hidden_size=checkpoint.key("embedding_length"),
        intermediate_size=checkpoint.key("feed_forward_length"),
        num_hidden_layers=checkpoint.key("block_count"),
        num_attention_heads=n_head,
        num_key_value_heads=n_head_kv,
        head_dim=size,
        max_position_embeddings=checkpoint.key("context_length"),
        rms_norm_eps=checkpoint.key("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": checkpoint.key("rope.freq_base")},
        tie_word_embeddings="output.weight" not in tensors,
        attention_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_up.bias" in tensors,
    )
    rows = {"attn_q": n_head * size, "attn_k": n_head_kv * size, "attn_v": n_head_kv * size}
    tensors = split_rows(tensors, "attn_qkv", rows)
    for name, tensor in tensors.items():
        if ".attn_q." in name or ".attn_k." in name:
            tensors[name] = halves(tensor, n_head if ".attn_q." in name else n_head_kv)
    return load(LlamaForCausalLM, config, rename(tensors))
