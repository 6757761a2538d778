"""Checkpoints of the architecture ``orion``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.gpt2 import model
from checkpoints.stablelm import BLOCKS, KEYS, NORMS

LAYER = {**NORMS, **layers.norm_biases(NORMS), **BLOCKS}
SIZES = {"rope.dimension_count": 16, "rope.freq_base": 5000.0}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "orion",
        "orion",
        KEYS | SIZES,
        model([LAYER] * 4),
        refused={"rope.scaling.type": "cubic", "rope.dimension_count": 5},
        has_config=False,  # not part of transformers; StableLM whose heads are rotated completely
    ),
)
