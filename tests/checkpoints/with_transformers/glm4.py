"""The architecture ``glm4`` as transformers' GLM-4."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Glm4Config, Glm4ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load, load_folder, rename, without_prediction

NAMES = {
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
    "ffn_up": "mlp.gate_up_proj",
}


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Glm4Config(**fields(checkpoint, tensors), pad_token_id=0)
    if checkpoint.has_config:
        return load_folder(Glm4ForCausalLM, config, checkpoint, tensors)
    tensors = {name: adjacent(checkpoint, name, tensor) for name, tensor in tensors.items()}
    return load(Glm4ForCausalLM, config, rename(without_prediction(checkpoint, tensors), NAMES))


def fields(checkpoint: Checkpoint, tensors: Tensors) -> dict[str, Any]:
    """Return the fields of a config."""
    found = common(checkpoint)
    found["rope_parameters"]["partial_rotary_factor"] = checkpoint.key("rope.dimension_count") / found["head_dim"]
    found["num_hidden_layers"] -= checkpoint.metadata.get(f"{checkpoint.architecture}.nextn_predict_layers", 0)
    return found | {"attention_bias": "blk.0.attn_q.bias" in tensors}


def adjacent(checkpoint: Checkpoint, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return rows of Q or K with the rotated pairs adjacent, which conversion moves to two halves."""
    if name.split(".")[-2] not in ("attn_q", "attn_k"):
        return tensor
    size, n_rot = common(checkpoint)["head_dim"], checkpoint.key("rope.dimension_count")
    rotated, rest = tensor.unflatten(0, (-1, size)).split([n_rot, size - n_rot], 1)
    rotated = rotated.unflatten(1, (2, -1)).swapaxes(1, 2).flatten(1, 2)
    return torch.cat([rotated, rest], 1).flatten(0, 1)
