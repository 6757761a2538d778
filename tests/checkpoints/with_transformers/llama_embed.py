"""The architecture ``llama-embed`` as transformers' Llama without a causal mask."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaModel

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


class LlamaBidirectionalModel(LlamaModel):  # type: ignore[misc]  # transformers is Any where it is not installed
    """Llama whose tokens see the whole text; named as the class of the published checkpoints."""

    def forward(self, input_ids: torch.Tensor) -> Any:
        """Return what Llama computes with a mask that hides nothing."""
        n = input_ids.shape[1]
        return super().forward(input_ids, attention_mask=torch.zeros(1, 1, n, n))


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    return load_folder(LlamaBidirectionalModel, LlamaConfig(**common(checkpoint), pooling="avg"), checkpoint, tensors)
