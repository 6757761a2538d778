"""The architecture ``t5encoder`` as transformers' encoder of T5."""

from __future__ import annotations

import torch
from transformers import T5Config, T5EncoderModel

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = T5Config(
        vocab_size=checkpoint.shapes["token_embd.weight"][0],
        d_model=checkpoint.key("embedding_length"),
        d_kv=checkpoint.key("attention.key_length"),
        d_ff=checkpoint.key("feed_forward_length"),
        num_layers=checkpoint.key("block_count"),
        num_heads=checkpoint.key("attention.head_count"),
        relative_attention_num_buckets=checkpoint.key("attention.relative_buckets_count"),
        n_positions=checkpoint.key("context_length"),
        layer_norm_epsilon=checkpoint.key("attention.layer_norm_rms_epsilon"),
        feed_forward_proj="gated-gelu" if "enc.blk.0.ffn_gate.weight" in tensors else "relu",
    )
    return load_folder(T5EncoderModel, config, checkpoint, tensors)
