"""Checkpoints of the architecture ``ernie4_5``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.seed_oss import HEADS, SIZES
from checkpoints.smollm3 import KEYS, NORMS

LAYER = {**NORMS, **layers.attention(HEADS), **layers.gated_ffn(96)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "ernie4_5",
        "ernie4_5",
        KEYS | SIZES,
        layers.model([LAYER] * 4, tied=True),
        refused={"rope.scaling.type": "cubic", "rope.dimension_count": 8},
    ),
    checkpoint("ernie4_5-biases", "ernie4_5", KEYS | SIZES, layers.model([{**LAYER, **layers.biases(LAYER)}] * 4)),
)
