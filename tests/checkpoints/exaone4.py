"""Checkpoints of the architecture ``exaone4``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.glm4 import prediction

HEADS = layers.HeadSizes()
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 5000.0,
}
NORMS = layers.vectors("post_attention_norm", "post_ffw_norm")
LAYER = {**NORMS, **layers.attention(HEADS, norms=True), **layers.gated_ffn(96)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "exaone4",
        "exaone4",
        KEYS,
        layers.model([LAYER] * 4, tied=True),
        refused={"rope.scaling.type": "cubic", "attention.sliding_window": -1},
    ),
    checkpoint(
        "exaone4-windows-nextn",  # like EXAONE 4.5
        "exaone4",
        KEYS | {"block_count": 9, "nextn_predict_layers": 1, "attention.sliding_window": 16},
        layers.model([*[LAYER] * 8, prediction(LAYER)]),
        skipped=("blk.8.*",),
    ),
    checkpoint(
        "exaone4-windows-listed",
        "exaone4",
        KEYS | {"attention.sliding_window": 8, "attention.sliding_window_pattern": [False, True, True, False]},
        layers.model([LAYER] * 4),
    ),
)
