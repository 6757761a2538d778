"""The architecture ``jina-bert-v3`` as transformers' Jina Embeddings v3."""

from __future__ import annotations

import torch
from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load, rename, rope_parameters
from checkpoints.with_transformers.bert import config_fields, split_qkv, with_types
from checkpoints.with_transformers.nomic_bert import NAMES

V3_NAMES = NAMES | {"ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    state = rename(with_types(split_qkv(tensors)), V3_NAMES, prefix="")
    del state["lm_head.weight"]
    config = JinaEmbeddingsV3Config(**config_fields(checkpoint), rope_parameters=rope_parameters(checkpoint))
    return load(JinaEmbeddingsV3Model, config, state, add_pooling_layer=False)
