"""Checkpoints of the architecture ``hunyuan-dense``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.smollm3 import HEADS, KEYS, NORMS

SIZES = {"attention.key_length": HEADS.size, "attention.value_length": HEADS.size, "block_count": 4}
ALPHA = 128.0
BASE = 2_560_000.0  # 10,000 · ALPHA^(16 / 14)
LAYER = {**NORMS, **layers.attention(HEADS, norms=True), **layers.gated_ffn(96)}
BIASES = layers.biases(LAYER, "attn_q", "attn_k", "attn_v", "attn_output")

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "hunyuan-dense",
        "hunyuan-dense",
        KEYS | SIZES | {"rope.freq_base": BASE},
        layers.model([LAYER] * 4, tied=True),
        refused={"rope.scaling.type": "cubic", "rope.dimension_count": 7},
    ),
    checkpoint("hunyuan-dense-biases", "hunyuan-dense", KEYS | SIZES, layers.model([{**LAYER, **BIASES}] * 4)),
)
