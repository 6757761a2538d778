"""Checkpoints of the architecture ``bitnet-b1.58``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.bitnet import HEADS, KEYS, LAYER

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "bitnet-b1.58",
        "bitnet-b1.58",
        KEYS,
        layers.model([{**LAYER, **layers.biases(layers.attention(HEADS))}] * 4),
        refused={"rope.scaling.type": "cubic"},
    ),
)
