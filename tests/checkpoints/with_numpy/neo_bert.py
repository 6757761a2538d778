"""The architecture ``neo-bert`` (arXiv:2502.19587), as its published code computes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from checkpoints import Checkpoint
from checkpoints.with_numpy.decoder import layer_of, published, rms, silu
from checkpoints.with_numpy.encoder import Array, Arrays, affine, attended, by_head

BASE = 10_000.0


def config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the config as the published one is."""
    is_ranker = checkpoint.output == "scores"
    return {
        "architectures": ["NeoBERTForSequenceClassification" if is_ranker else "NeoBERTLMHead"],
        "dim_head": checkpoint.key("embedding_length") // checkpoint.key("attention.head_count"),
        "hidden_size": checkpoint.key("embedding_length"),
        "intermediate_size": 140,  # two thirds of it, and then the next multiple of 8, are 96
        "max_length": checkpoint.key("context_length"),
        "model_type": "neobert",
        "norm_eps": checkpoint.key("attention.layer_norm_rms_epsilon"),
        "num_attention_heads": checkpoint.key("attention.head_count"),
        "num_hidden_layers": checkpoint.key("block_count"),
        "pad_token_id": 0,
        "vocab_size": checkpoint.shapes["token_embd.weight"][0],
    }


def hidden(checkpoint: Checkpoint, tensors: Arrays, tokens: Array) -> Array:
    """Return the hidden states of all tokens of a text."""
    return states(checkpoint, published(checkpoint, config(checkpoint), tensors), tokens)


def scores(checkpoint: Checkpoint, tensors: Arrays, tokens: Array) -> Array:
    """Return the scores of a text, from the hidden state of its first token."""
    found = published(checkpoint, config(checkpoint), tensors)
    first = states(checkpoint, found, tokens)[0]
    return affine(np.tanh(affine(first, found, "dense")), found, "classifier")


def states(checkpoint: Checkpoint, tensors: Arrays, tokens: Array) -> Array:
    """Return the hidden states, given the tensors by their published names."""
    n_head, eps = checkpoint.key("attention.head_count"), checkpoint.key("attention.layer_norm_rms_epsilon")
    x = tensors["encoder.weight"][tokens]
    for i in range(checkpoint.key("block_count")):
        layer = layer_of(tensors, f"transformer_encoder.{i}.")
        qkv = by_head(affine(rms(x, layer["attention_norm.weight"], eps), layer, "qkv"), n_head)
        q, k, v = np.split(qkv, 3, -1)
        x = x + affine(attended(turned(q), turned(k), v), layer, "wo")
        gate, up = np.split(affine(rms(x, layer["ffn_norm.weight"], eps), layer, "ffn.w12"), 2, -1)
        x = x + affine(silu(gate) * up, layer, "ffn.w3")
    return rms(x, tensors["layer_norm.weight"], eps)


def turned(x: Array) -> Array:
    """Return heads, ``(n_head, n_tokens, size)``, with adjacent numbers as complex ones turned by the positions."""
    size = x.shape[-1]
    angles = np.arange(x.shape[1])[:, None] * BASE ** (-np.arange(0, size, 2) / size)
    result = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    return np.stack([result.real, result.imag], -1).reshape(x.shape)
