"""Checkpoints of the architecture ``minicpm``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.granite import KEYS, PLAIN, SCALES

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "minicpm",
        "minicpm",
        {key: value for key, value in KEYS.items() if key != "attention.scale"},
        layers.model([PLAIN] * 4, tied=True),
        refused={"rope.scaling.type": "cubic", "embedding_scale": -1.0},
        has_config=False,  # not part of transformers; Granite with other names
    ),
    checkpoint(
        "minicpm-old",
        "minicpm",
        {key: value for key, value in KEYS.items() if key not in SCALES},
        layers.model([{**PLAIN, **layers.biases(PLAIN)}] * 4),
        has_config=False,
    ),
)
