"""Checkpoints of the architecture ``llama-embed``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.llama import KEYS, PLAIN

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "llama-embed",
        "llama-embed",
        KEYS,
        layers.model([PLAIN] * 4, tied=True),
        refused={"rope.dimension_count": 8},
        output="hidden",
    ),
)
