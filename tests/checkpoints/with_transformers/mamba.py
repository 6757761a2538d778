"""The architecture ``mamba`` as transformers' Mamba or Falcon-Mamba."""

from __future__ import annotations

import torch
from transformers import FalconMambaConfig, FalconMambaForCausalLM, MambaConfig, MambaForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder
from checkpoints.with_transformers.mamba2 import recurrent_fields


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = recurrent_fields(checkpoint) | {
        "time_step_rank": checkpoint.key("ssm.time_step_rank"),
        "use_bias": "blk.0.ssm_in.bias" in tensors,
    }
    if checkpoint.metadata.get("mamba.ssm.dt_b_c_rms"):
        return load_folder(FalconMambaForCausalLM, FalconMambaConfig(**fields), checkpoint, tensors)
    return load_folder(MambaForCausalLM, MambaConfig(**fields), checkpoint, tensors)
