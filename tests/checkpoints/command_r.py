"""Checkpoints of the architecture ``command-r``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.cohere2 import BIASES, HEADS, LAYER
from checkpoints.cohere2 import KEYS as KEYS_OF_COHERE2

KEYS = {key: value for key, value in KEYS_OF_COHERE2.items() if "sliding" not in key} | {"block_count": 4}
HEAD_NORMS: Shapes = {
    "attn_q_norm.weight": (HEADS.n, HEADS.size),
    "attn_k_norm.weight": (HEADS.n_kv, HEADS.size),
}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "command-r",
        "command-r",
        KEYS,
        layers.model([{**LAYER, **BIASES}] * 4, tied=True),
        refused={"rope.scaling.type": "cubic"},
    ),
    checkpoint("command-r-plus", "command-r", KEYS, layers.model([{**LAYER, **HEAD_NORMS}] * 4, tied=True)),
)
