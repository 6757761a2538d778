"""What transformers' `MtpLayer` predicts for a checkpoint with a block for multi-token prediction."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import MtpLayer

from checkpoints import Checkpoint
from checkpoints.folders import checkpoint_tensors, config_json
from checkpoints.with_transformers import Tensors

OWN_NAMES = {
    "shared_head.norm": "post_norm",
    "mtp.norm": "post_norm",
    "mtp.fc": "eh_proj",
    "mtp.pre_fc_norm_embedding": "enorm",
    "mtp.pre_fc_norm_hidden": "hnorm",
}
"""Names in checkpoints, and those of transformers."""


def predict(
    checkpoint: Checkpoint, model: Any, tensors: Tensors, text: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the logits of the token after the next one, for each token of a text but the last one.

    ``model`` is what the checkpoint is without the block.
    """
    tokens, base = torch.from_numpy(text)[None], model.model
    layer = _layer(checkpoint, model, tensors)
    with torch.no_grad():
        hidden = base(input_ids=tokens).last_hidden_state[:, :-1]
        embedded = model.get_input_embeddings()(tokens[:, 1:])
        positions = torch.arange(1, len(text))[None]
        mask = create_causal_mask(layer.config, embedded, None, None, position_ids=positions)
        result = layer(embedded, hidden, base.rotary_emb(embedded, position_ids=positions), mask, positions, None)
        rows: npt.NDArray[np.float64] = model.lm_head(result)[0].numpy()
    return rows


def _layer(checkpoint: Checkpoint, model: Any, tensors: Tensors) -> Any:
    """Return the block with its parameters."""
    config, number = copy.deepcopy(model.config), model.config.num_hidden_layers
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = ["full_attention"]
    if hasattr(config, "first_k_dense_replace"):
        config.first_k_dense_replace = int(f"blk.{number}.ffn_gate_inp.weight" not in tensors)
    last = model.model.layers[-1]
    layer = MtpLayer(config, type(last), type(model.model.norm), 0).double()

    state: Tensors = {"post_norm.weight": model.model.norm.weight}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    for name, array in checkpoint_tensors(checkpoint, config_json(model.config, type(model)), arrays).items():
        if name.startswith((f"model.layers.{number}.", "mtp.")):
            short = name.removeprefix(f"model.layers.{number}.").removeprefix("mtp.layers.0.")
            stem, _, part = short.rpartition(".")
            own = OWN_NAMES.get(stem, stem if stem in ("enorm", "hnorm", "eh_proj") else f"mtp_block.{stem}")
            state[f"{own}.{part}" if stem else f"mtp_block.{part}"] = torch.from_numpy(np.array(array))
    layer.load_state_dict(_joined_experts(state), strict=True)
    return layer.eval()


def _joined_experts(state: Tensors) -> Tensors:
    """Return the parameters with those of experts in one tensor each, gate and up as one."""
    experts = "mtp_block.mlp.experts."
    found = {name: tensor for name, tensor in state.items() if not name.startswith(experts)}
    n = 1 + max((int(name.split(".")[3]) for name in state if name.startswith(experts)), default=-1)
    if n:
        gate, up, down = (
            torch.stack([state[f"{experts}{e}.{role}_proj.weight"] for e in range(n)])
            for role in ("gate", "up", "down")
        )
        found |= {f"{experts}gate_up_proj": torch.cat([gate, up], 1), f"{experts}down_proj": down}
    return found
