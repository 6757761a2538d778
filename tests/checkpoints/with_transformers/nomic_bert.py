"""The architecture ``nomic-bert`` as transformers' Nomic BERT."""

from __future__ import annotations

import torch
from transformers import NomicBertConfig, NomicBertModel

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load, rename, rope_parameters, split_rows
from checkpoints.with_transformers.bert import config_fields, split_qkv, with_types

NAMES = {
    "token_embd": "embeddings.word_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "attn_output_norm": "post_attention_layernorm",
    "layer_output_norm": "post_mlp_layernorm",
}


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    n_ff = checkpoint.key("feed_forward_length")
    if "blk.0.ffn_gate.weight" not in tensors:
        tensors = split_rows(tensors, "ffn_up", {"ffn_gate": n_ff, "ffn_up": n_ff})
    state = rename(with_types(split_qkv(tensors)), NAMES, prefix="")
    del state["lm_head.weight"]
    config = NomicBertConfig(**config_fields(checkpoint), rope_parameters=rope_parameters(checkpoint))
    return load(NomicBertModel, config, state)
