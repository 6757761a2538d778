"""The checkpoints as models of transformers, one module per architecture.

Each has a function ``build(checkpoint, tensors) -> torch.nn.Module`` that undoes what the conversion to GGUF changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF's names of parameters in most models of transformers."""


def load(kind: type[torch.nn.Module], config: Any, state: Tensors) -> torch.nn.Module:
    """Return a model with the given parameters in float64; every parameter must be given."""
    config._attn_implementation = "eager"
    model = kind(config).double()
    model.load_state_dict(state, strict=True)
    return model.eval()


def rename(tensors: Tensors, names: Mapping[str, str] | None = None, prefix: str = "model.") -> Tensors:
    """Return the parameters by transformers' names; ``names`` changes some of `NAMES`.

    Without an output matrix the embedding matrix is used.
    """
    names = {**NAMES, **(names or {})}
    state = {}
    for name, tensor in tensors.items():
        stem, _, part = name.rpartition(".")
        if stem == "output":
            state[f"lm_head.{part}"] = tensor
        elif stem.startswith("blk."):
            _, layer, role = stem.split(".", 2)
            state[f"{prefix}layers.{layer}.{names[role]}.{part}"] = tensor
        else:
            state[f"{prefix}{names[stem]}.{part}"] = tensor
    state.setdefault("lm_head.weight", tensors["token_embd.weight"])
    return state


def halves(tensor: torch.Tensor, n_head: int) -> torch.Tensor:
    """Return rows of Q or K with the pairs to rotate in the halves of a head, not adjacent as GGUF has them.

    ``tensor`` is a weight ``(n_head · size, n_in)`` or a bias ``(n_head · size,)``.
    """
    pairs = tensor.reshape(n_head, -1, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def split_rows(tensors: Tensors, fused: str, parts: Mapping[str, int]) -> Tensors:
    """Return the tensors with each fused parameter divided into parts with the given numbers of rows."""
    result = {}
    for name, tensor in tensors.items():
        if f".{fused}." not in name:
            result[name] = tensor
            continue
        for part, rows in zip(parts, tensor.split(list(parts.values())), strict=True):
            result[name.replace(f".{fused}.", f".{part}.")] = rows
    return result
