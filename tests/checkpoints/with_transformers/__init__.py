"""The checkpoints as models of transformers, one module per architecture.

Each has a function ``build(checkpoint, tensors) -> torch.nn.Module`` that undoes what the conversion to GGUF changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from checkpoints import Checkpoint

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
    "ffn_gate_inp": "mlp.gate",
}
"""GGUF's names of parameters in most models of transformers."""


def common(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a config that most models of transformers have."""
    size = checkpoint.metadata.get(f"{checkpoint.architecture}.attention.key_length")
    n_embd, n_head = checkpoint.key("embedding_length"), checkpoint.key("attention.head_count")
    return {
        "vocab_size": checkpoint.shapes["token_embd.weight"][0],
        "hidden_size": n_embd,
        "intermediate_size": checkpoint.key("feed_forward_length"),
        "num_hidden_layers": checkpoint.key("block_count"),
        "num_attention_heads": n_head,
        "num_key_value_heads": checkpoint.key("attention.head_count_kv"),
        "head_dim": size or n_embd // n_head,
        "max_position_embeddings": checkpoint.key("context_length"),
        "rms_norm_eps": checkpoint.metadata.get(f"{checkpoint.architecture}.attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope_parameters(checkpoint),
        "tie_word_embeddings": "output.weight" not in checkpoint.shapes,
    }


def rope_parameters(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return transformers' description of rotary positions, with YaRN or linear scaling or without."""
    prefix = f"{checkpoint.architecture}.rope."
    keys = {key.removeprefix(prefix): value for key, value in checkpoint.metadata.items()}
    found: dict[str, Any] = {
        "rope_type": keys.get("scaling.type", "default"),
        "rope_theta": keys.get("freq_base", 10_000.0),
    }
    if "scaling.factor" in keys:
        found["factor"] = keys["scaling.factor"]
    if "scaling.original_context_length" in keys:
        found["original_max_position_embeddings"] = keys["scaling.original_context_length"]
    return found


def layer_types(checkpoint: Checkpoint) -> list[str] | None:
    """Return which layers have a window, in transformers' words; None for the default of the architecture."""
    pattern = checkpoint.metadata.get(f"{checkpoint.architecture}.attention.sliding_window_pattern")
    if pattern is None:
        return None
    n = checkpoint.key("block_count")
    is_windowed = pattern if isinstance(pattern, list) else [(i + 1) % pattern != 0 for i in range(n)]
    return ["sliding_attention" if one else "full_attention" for one in is_windowed]


def load(kind: type[torch.nn.Module], config: Any, state: Tensors, **options: Any) -> torch.nn.Module:
    """Return a model with the given parameters in float64; every parameter must be given.

    The options are those of the model's class.
    """
    config._attn_implementation = config._experts_implementation = "eager"
    model = kind(config, **options).double()
    model.load_state_dict(state, strict=True)
    return model.eval()


def load_folder(kind: Any, config: Any, checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return a model of transformers in float64, loaded from a folder that the conversion's rules have written.

    Every parameter must be in the folder, and transformers must know everything there.
    """
    from checkpoints.folders import config_json, write_folder

    tensors = without_prediction(checkpoint, tensors)  # transformers does not load it with the model
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    with TemporaryDirectory() as folder:
        write_folder(checkpoint, Path(folder), config_json(config, kind), arrays)
        model, report = kind.from_pretrained(
            folder,
            dtype=torch.float64,
            attn_implementation="eager",
            experts_implementation="eager",
            output_loading_info=True,
        )
    assert not any(report.values()), {kind: sorted(names)[:3] for kind, names in report.items()}
    return model.eval()


def rename(tensors: Tensors, names: Mapping[str, str] | None = None, prefix: str = "model.") -> Tensors:
    """Return the parameters by transformers' names; ``names`` changes some of `NAMES`.

    Without an output matrix the embedding matrix is used.
    """
    names = {**NAMES, **(names or {})}
    state = {}
    for name, tensor in tensors.items():
        stem, dot, part = name.rpartition(".")
        if part not in ("weight", "bias"):
            stem, dot, part = name, "", ""
        if stem == "output":
            state[f"lm_head.{part}"] = tensor
        elif stem.startswith("blk."):
            _, layer, role = stem.split(".", 2)
            state[f"{prefix}layers.{layer}.{names[role]}{dot}{part}"] = tensor
        else:
            state[f"{prefix}{names[stem]}{dot}{part}"] = tensor
    state.setdefault("lm_head.weight", tensors["token_embd.weight"])
    return state


def without_one(tensors: Tensors) -> Tensors:
    """Return the tensors with 1 subtracted from the weights of norms, to which conversion adds it."""
    return {name: tensor - 1 if name.endswith("norm.weight") else tensor for name, tensor in tensors.items()}


def without_prediction(checkpoint: Checkpoint, tensors: Tensors) -> Tensors:
    """Return the tensors without those of the blocks at the end that predict more than one token."""
    prefix = f"{checkpoint.architecture}."
    n_all, n_skipped = checkpoint.key("block_count"), checkpoint.metadata.get(f"{prefix}nextn_predict_layers", 0)
    skipped = tuple(f"blk.{i}." for i in range(n_all - n_skipped, n_all))
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(skipped)}


def halves(tensor: torch.Tensor, n_head: int) -> torch.Tensor:
    """Return rows of Q or K with the pairs to rotate in the halves of a head, not adjacent as GGUF has them.

    ``tensor`` is a weight ``(n_head · size, n_in)`` or a bias ``(n_head · size,)``.
    """
    pairs = tensor.reshape(n_head, -1, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def split_qkv(checkpoint: Checkpoint, tensors: Tensors) -> Tensors:
    """Return the tensors with ``attn_qkv`` divided into ``attn_q``, ``attn_k`` and ``attn_v``."""
    config = common(checkpoint)
    n_q, n_kv = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    return split_rows(tensors, "attn_qkv", {"attn_q": n_q, "attn_k": n_kv, "attn_v": n_kv})


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
