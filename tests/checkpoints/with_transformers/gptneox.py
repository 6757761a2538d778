"""The architecture ``gptneox`` as transformers' GPT-NeoX."""

from __future__ import annotations

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    n_embd, n_head = checkpoint.key("embedding_length"), checkpoint.key("attention.head_count")
    share = checkpoint.key("rope.dimension_count") / (n_embd // n_head)
    config = GPTNeoXConfig(
        vocab_size=checkpoint.shapes["token_embd.weight"][0],
        hidden_size=n_embd,
        num_hidden_layers=checkpoint.key("block_count"),
        num_attention_heads=n_head,
        intermediate_size=checkpoint.key("feed_forward_length"),
        max_position_embeddings=checkpoint.key("context_length"),
        layer_norm_eps=checkpoint.key("attention.layer_norm_epsilon"),
        use_parallel_residual=checkpoint.key("use_parallel_residual"),
        attention_bias="blk.0.attn_qkv.bias" in tensors,
        tie_word_embeddings="output.weight" not in tensors,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": share},
    )
    return load_folder(GPTNeoXForCausalLM, config, checkpoint, tensors)
