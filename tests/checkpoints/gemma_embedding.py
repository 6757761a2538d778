"""Checkpoints of the architecture ``gemma-embedding``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.gemma3 import KEYS, LAYER

EMBEDDING_KEYS = KEYS | {"attention.causal": False, "rope.freq_base_swa": 5000.0}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "gemma-embedding",
        "gemma-embedding",
        EMBEDDING_KEYS,
        layers.model([LAYER] * 8, tied=True),
        refused={"rope.scaling.type": "cubic"},
        output="hidden",
    ),
)
