"""The architecture ``bitnet-b1.58`` as transformers' BitNet."""

from __future__ import annotations

import torch

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors
from checkpoints.with_transformers.bitnet import build as build_bitnet


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    return build_bitnet(checkpoint, tensors, "relu2")
