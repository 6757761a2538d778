"""Checkpoints of the architecture ``internlm2``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.smollm3 import HEADS, KEYS, NORMS

LAYER = {**NORMS, **layers.attention(HEADS), **layers.gated_ffn(96)}
BIASES = layers.biases(LAYER, "attn_q", "attn_k", "attn_v", "attn_output")

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "internlm2",
        "internlm2",
        KEYS | {"block_count": 4},
        layers.model([LAYER] * 4),
        refused={"rope.scaling.type": "cubic", "rope.dimension_count": 8},
        has_config=False,  # not part of transformers; Llama with other names
    ),
    checkpoint(
        "internlm2-biases",
        "internlm2",
        KEYS | {"block_count": 4},
        layers.model([{**LAYER, **BIASES}] * 4),
        has_config=False,
    ),
)
