"""Checkpoints of the architecture ``arcee``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.nemotron_h import ffn
from checkpoints.olmo2 import YARN
from checkpoints.smollm3 import HEADS, KEYS, NORMS

LAYER = {**NORMS, **layers.attention(HEADS), **ffn(96)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "arcee",
        "arcee",
        KEYS | YARN | {"block_count": 4},
        layers.model([LAYER] * 4),
        refused={"rope.scaling.type": "cubic", "attention.scale": -1.0},
    ),
    checkpoint(
        "arcee-biases-tied",
        "arcee",
        KEYS | {"block_count": 2},
        layers.model([{**LAYER, **layers.biases(LAYER)}] * 2, tied=True),
    ),
)
